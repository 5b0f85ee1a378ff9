import copy
import doctest
import functools

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from kaseg.distillation import autoencoder as module
from kaseg.distillation.autoencoder import FeatureAutoencoder, FeatureAutoencoderConfig, encoder_strides


def build(**kwargs):
    torch.manual_seed(0)
    return FeatureAutoencoder(FeatureAutoencoderConfig(**{"in_channels": 12, "latent_channels": 8, **kwargs}))


def features_of(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def reference(autoencoder, features):
    """Code and reconstruction in training mode, from the weights alone, in float64."""
    state = {name: value.double() for name, value in autoencoder.state_dict().items()}
    kernels = [value for value in state.values() if value.ndim == 4]
    norms = [name.removesuffix("running_mean") for name in state if name.endswith("running_mean")]
    scales = [(state[f"{norm}weight"], state[f"{norm}bias"]) for norm in norms]
    x, sizes, strides = features.double(), [], autoencoder.config.strides
    for kernel, stride, (weight, bias) in zip(kernels[:3], strides, scales[:3], strict=True):
        sizes.append(x.shape[-2:])
        x = F.conv2d(x, kernel, stride=stride, padding=1)
        x = F.batch_norm(x, None, None, weight, bias, training=True).relu()
    code = x
    for i, (kernel, stride, size) in enumerate(zip(kernels[3:], strides[::-1], sizes[::-1], strict=True)):
        # What a transposed convolution lacks of the size it mirrors is made up at its far edges.
        missing = [wanted - ((got - 1) * stride + 1) for wanted, got in zip(size, x.shape[-2:], strict=True)]
        bias = state["decoder.2.conv.bias"] if i == 2 else None
        x = F.conv_transpose2d(x, kernel, bias, stride=stride, padding=1, output_padding=missing)
        if i < 2:
            x = F.batch_norm(x, None, None, *scales[3 + i], training=True).relu()
    return code, x


@pytest.mark.parametrize("strides", [[2, 2, 1], [2, 2, 2], [1, 1, 1]])
def test_forward_and_loss_match_a_reference(strides):
    autoencoder = build(strides=strides, sparsity_weight=1e-3)
    for parameter in autoencoder.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    features = features_of(3, 12, 19, 13)
    output = autoencoder(features)
    code, reconstruction = reference(autoencoder, features)
    torch.testing.assert_close(output.code.double(), code, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.reconstruction.double(), reconstruction, rtol=1e-4, atol=1e-5)
    error = np.mean((reconstruction.detach().numpy() - features.numpy()) ** 2)
    sparsity = np.abs(code.detach().numpy()).sum() / 3
    assert output.reconstruction_loss.item() == pytest.approx(error, rel=1e-4)
    assert output.sparsity_loss.item() == pytest.approx(sparsity, rel=1e-4)
    assert output.loss.item() == pytest.approx(error + 1e-3 * sparsity, rel=1e-4)


@pytest.mark.parametrize(
    ("size", "code_size"), [((45, 45), (12, 12)), ((46, 33), (12, 9)), ((1, 1), (1, 1)), ((8, 2), (2, 1))]
)
def test_any_size_comes_back(size, code_size):
    autoencoder, features = build().eval(), features_of(2, 12, *size)
    output = autoencoder(features)
    assert torch.equal(autoencoder.encode(features), output.code)
    assert output.code.shape == (2, 8, *code_size)
    assert output.reconstruction.shape == (2, 12, *size)
    assert (output.code >= 0).all()
    assert (output.reconstruction < 0).any()  # the last layer is linear: signed maps can be rebuilt


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        (4, 4, [1, 1, 1]),
        (4, 8, [2, 1, 1]),
        (4, 16, [2, 2, 1]),
        (4, 32, [2, 2, 2]),
        (8, 16, [2, 1, 1]),
        (8, 32, [2, 2, 1]),
        (16, 16, [1, 1, 1]),
        (16, 4, [1, 1, 1]),
        (4, 64, [2, 2, 2]),
        (4, 12, [2, 2, 1]),
        (16, 20, [1, 1, 1]),
    ],
)
def test_encoder_strides(teacher, student, expected):
    assert encoder_strides(teacher, student) == expected


def test_encoder_strides_land_on_the_students_grid_and_refuse_nonsense():
    with pytest.raises(ValueError, match="teacher_stride=0"):
        encoder_strides(0, 16)
    # Positions of a 513 pixel input: ceil(513 / stride).
    grid = {stride: -(-513 // stride) for stride in (4, 8, 16, 32)}
    for teacher, student in ((4, 8), (4, 16), (4, 32), (8, 16), (8, 32), (16, 32)):
        autoencoder = build(in_channels=2, latent_channels=2, strides=encoder_strides(teacher, student)).eval()
        assert autoencoder.encode(features_of(1, 2, grid[teacher], grid[teacher])).shape[-1] == grid[student]


def test_save_and_load_are_bit_equal(tmp_path):
    autoencoder = build(hidden_channels=[10, 9], strides=[2, 1, 1], sparsity_weight=0)
    features = features_of(2, 12, 9, 7) * 1e4
    autoencoder.normalization.measure([features])
    autoencoder(features)  # moves the batch normalization statistics
    autoencoder.save_pretrained(tmp_path)
    loaded = FeatureAutoencoder.from_pretrained(tmp_path)
    saved_state, state = autoencoder.state_dict(), loaded.state_dict()
    assert saved_state.keys() == state.keys()
    assert all(torch.equal(saved_state[name], state[name]) for name in state)
    assert torch.equal(loaded(features).loss, autoencoder.eval()(features).loss)
    for name in ("in_channels", "hidden_channels", "latent_channels", "strides", "sparsity_weight", "widths"):
        assert getattr(loaded.config, name) == getattr(autoencoder.config, name), name
    assert not loaded.is_frozen and loaded.normalization.std > 9e3
    assert torch.equal(loaded.freeze().encode(features), autoencoder.encode(features))


def test_weights_missing_from_a_checkpoint_are_initialized(tmp_path):
    build().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    missing = ("encoder.0.0.weight", "encoder.0.1.running_var", "decoder.0.conv.weight", "decoder.2.conv.bias")
    save_file({name: value for name, value in state.items() if name not in missing}, file, metadata={"format": "pt"})
    loaded = FeatureAutoencoder.from_pretrained(tmp_path).state_dict()
    assert loaded["encoder.0.0.weight"].std().item() == pytest.approx((2 / (12 * 9)) ** 0.5, rel=0.1)
    assert loaded["decoder.0.conv.weight"].std().item() == pytest.approx((2 / (8 * 9)) ** 0.5, rel=0.1)
    assert torch.equal(loaded["encoder.0.1.running_var"], torch.ones(16))
    assert not loaded["decoder.2.conv.bias"].any()
    assert all(torch.equal(loaded[name], value) for name, value in state.items() if name not in missing)


def test_widths():
    assert FeatureAutoencoderConfig().widths == [256, 192, 128, 128]
    assert FeatureAutoencoderConfig(in_channels=21, latent_channels=10).widths == [21, 16, 10, 10]
    assert FeatureAutoencoderConfig(hidden_channels=[64, 32]).widths == [256, 64, 32, 128]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"strides": [2, 2]}, r"strides.*\[2, 2\]"),
        ({"strides": [2, 2, 0]}, "strides"),
        ({"hidden_channels": [64]}, r"hidden_channels.*\[64\]"),
        ({"latent_channels": 0}, "width"),
        ({"sparsity_weight": -1.0}, "sparsity_weight"),
        ({"in_channels": "256"}, "in_channels"),
    ],
)
def test_config_errors_name_the_field(kwargs, message):
    with pytest.raises(Exception, match=message):
        FeatureAutoencoderConfig(**kwargs)


def test_wrong_features_are_refused():
    for call in (build(), build().encode):
        with pytest.raises(ValueError, match=r"\(B, 12, h, w\).*\(2, 11, 5, 5\)"):
            call(features_of(2, 11, 5, 5))


def test_gradient_reaches_every_parameter():
    autoencoder = build()
    autoencoder(features_of(2, 12, 9, 9)).loss.backward()
    for name, parameter in autoencoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_sparsity_term_has_a_gradient():
    plain, sparse = build(sparsity_weight=0.0), build(sparsity_weight=1.0)
    features = features_of(2, 12, 9, 9)
    for autoencoder in (plain, sparse):
        autoencoder(features).loss.backward()
    assert not torch.equal(plain.encoder[2][0].weight.grad, sparse.encoder[2][0].weight.grad)
    assert torch.equal(plain.decoder[2].conv.weight.grad, sparse.decoder[2].conv.weight.grad)


def test_loss_is_float32_under_autocast_and_in_bfloat16():
    features = features_of(2, 12, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        output = build()(features)
    assert output.reconstruction.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32
    assert output.loss.item() == pytest.approx(build()(features).loss.item(), rel=0.05)
    assert build().to(torch.bfloat16)(features.bfloat16()).loss.dtype == torch.float32


def test_frozen_means_frozen():
    autoencoder = build()
    features = features_of(2, 12, 9, 9)
    autoencoder(features)
    expected = autoencoder.eval().encode(features)
    autoencoder.train()
    state = copy.deepcopy(autoencoder.encoder.state_dict())
    assert autoencoder.freeze() is autoencoder
    outer = torch.nn.ModuleDict({"autoencoder": autoencoder})
    for unfreeze in (
        lambda: autoencoder.train(True),
        lambda: outer.train(),
        lambda: [m.train() for m in outer.modules()],
    ):
        unfreeze()
        assert not autoencoder.training
        assert torch.equal(autoencoder.encode(features), expected)
        assert all(torch.equal(value, state[name]) for name, value in autoencoder.encoder.state_dict().items())
    assert autoencoder.is_frozen
    assert not any(p.requires_grad for p in autoencoder.parameters())
    assert copy.deepcopy(autoencoder).train().training is False


def test_frozen_autoencoder_has_no_decoder_and_says_so(tmp_path):
    autoencoder = build().freeze()
    assert all(name.startswith(("encoder.", "normalization.")) for name in autoencoder.state_dict())
    with pytest.raises(RuntimeError, match="encode"):
        autoencoder(features_of(1, 12, 5, 5))
    with pytest.raises(RuntimeError, match="before freeze"):
        autoencoder.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_examples_in_docstrings():
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@functools.cache
def _fitted(
    scale: float, offset: float = 0.0, steps: int = 40, measured: bool = True
) -> tuple[FeatureAutoencoder, list]:
    """The trainer's defaults: SGD at 0.1 with momentum 0.9."""
    autoencoder = build().train()
    maps = [features_of(4, 12, 8, 8, seed=seed) * scale + offset for seed in range(4)]
    if measured:
        autoencoder.normalization.measure(maps)
    optimizer = torch.optim.SGD(autoencoder.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        output = autoencoder(maps[step % 4])
        output.loss.backward()
        optimizer.step()
        losses.append(output.reconstruction_loss.item())
    return autoencoder, losses


@pytest.mark.parametrize("scale, offset", [(1e-4, 0.0), (1e4, 0.0), (1.0, 100.0), (1e4, -1e5), (1e-4, 0.01)])
def test_maps_of_any_scale_are_learned_alike(scale, offset):
    _, usual = _fitted(1.0)
    autoencoder, losses = _fitted(scale, offset)
    assert losses[-1] < 0.9 * losses[0] and losses[0] == pytest.approx(usual[0], rel=1e-3)
    # Rounding is amplified from step to step.
    assert losses[-1] == pytest.approx(usual[-1], rel=0.02)
    features = features_of(4, 12, 8, 8, seed=0) * scale + offset
    error = (autoencoder.eval()(features).reconstruction - features).square().mean().sqrt()
    assert error < scale  # in the maps' own scale again


def test_without_statistics_large_maps_break_the_default():
    _, losses = _fitted(1e4, measured=False)
    assert not max(losses) < 1e3 * losses[0]


def test_measured_statistics_are_those_of_all_maps():
    autoencoder = build()
    maps = [features_of(2, 12, 5, 7, seed=1) * 3 + 2, features_of(1, 12, 9, 4, seed=2)]
    autoencoder.normalization.measure(maps)
    positions = torch.cat([m.transpose(0, 1).flatten(1) for m in maps], dim=1).double()
    torch.testing.assert_close(autoencoder.normalization.mean, positions.mean(1).float())
    std = (positions - positions.mean(1, keepdim=True)).square().mean().sqrt()
    assert autoencoder.normalization.std.item() == pytest.approx(std.item(), rel=1e-6)
    torch.testing.assert_close(autoencoder.normalization.undo(autoencoder.normalization(maps[0])), maps[0])
    autoencoder.normalization.measure([torch.full((1, 12, 4, 4), 7.0)])  # the same everywhere
    assert autoencoder.normalization.std == 1
    with pytest.raises(ValueError, match="map of image 1 holds NaN or infinite"):
        autoencoder.normalization.measure([maps[0], maps[1] * torch.inf])


def test_folders_without_statistics_give_the_codes_that_they_gave(tmp_path, caplog):
    autoencoder = build().eval()
    features = features_of(2, 12, 9, 9)
    before = autoencoder.encoder(features)  # what encode() was before there were statistics
    autoencoder.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    old = {name: value for name, value in state.items() if not name.startswith("normalization.")}
    assert len(old) == len(state) - 2
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = FeatureAutoencoder.from_pretrained(tmp_path)
    assert torch.equal(loaded.encode(features), before) and "normalization" not in caplog.text
