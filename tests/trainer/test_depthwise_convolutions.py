import copy
import pickle

import pytest
import torch
from timm.layers import Conv2dSame, StdConv2d
from torch import nn
from toy import arguments, make_dataset, make_model

from kaseg import SegmentationConfig, SegmentationTrainer
from kaseg.trainer.depthwise_convolutions import _Depthwise, train_fast_on_cpu


def _passes(
    layer: nn.Module, weights: list[nn.Parameter], dtype: torch.dtype, size: tuple[int, int], channels_last: bool
) -> list[torch.Tensor]:
    """Output and gradients of the input and of the weights, for the same rounded random numbers."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 32, *size, generator=generator).bfloat16().float()
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    images.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        maps = layer(images)
    assert maps.dtype == dtype
    pulled = torch.randn(maps.shape, generator=generator).bfloat16().to(dtype)
    return [maps.detach(), *torch.autograd.grad(maps, [images, *weights], pulled)]


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return float((found.float() - expected).norm() / expected.norm())


MOBILE = {"backbone": "mobilenetv2_035", "output_stride": 8}
PHASES = ["dilated", "dilation of 4", "5x5", "3x5", "bias"]
LAYERS = {
    "dilated": dict(padding=2, dilation=2),
    "dilation of 4": dict(padding=4, dilation=4),
    "5x5": dict(kernel_size=5, padding=4, dilation=2),
    "3x5": dict(kernel_size=(3, 5), padding=(2, 4), dilation=2),
    "bias": dict(padding=2, dilation=2, bias=True),
    "strided": dict(padding=1, stride=2),
    # None of these can be convolved phase by phase, nor can "strided".
    "two dilations": dict(padding=(2, 3), dilation=(2, 3)),
    "valid": dict(padding=0, dilation=2),
    "padding by name": dict(padding="same", dilation=2),
    "even kernel": dict(kernel_size=2, padding=1, dilation=2),
    "reflected": dict(padding=2, dilation=2, padding_mode="reflect"),
    "groups of 4": dict(padding=2, dilation=2, groups=8),
    "more out": dict(padding=2, dilation=2, out_channels=64),
    "strided and dilated": dict(padding=2, dilation=2, stride=2),
    "timm's same": dict(kind=Conv2dSame, padding=0, dilation=2, stride=2),
    "timm's standardized weights": dict(kind=StdConv2d, padding=2, dilation=2),
}


def _layer(name: str) -> nn.Module:
    torch.manual_seed(0)
    settings = {"out_channels": 32, "kernel_size": 3, "groups": 32, "bias": False, **LAYERS[name]}
    return settings.pop("kind", nn.Conv2d)(32, **settings)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [(12, 40), (13, 33)])
@pytest.mark.parametrize("name", LAYERS)
def test_results_are_those_of_the_plain_layer_in_float32(name: str, size: tuple[int, int], channels_last: bool) -> None:
    layer = _layer(name)
    expected = _passes(layer, list(layer.parameters()), torch.float32, size, channels_last)
    kind = type(layer)
    train_fast_on_cpu(layer)
    assert isinstance(layer, kind) and isinstance(layer, _Depthwise)
    assert layer._has_phases() is (name in PHASES)
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 0.02)):
        maps, *gradients = _passes(layer, list(layer.parameters()), dtype, size, channels_last)
        assert _error(maps, expected[0]) < bound
        # What has no phases computes in float32; its output alone is rounded.
        assert max(map(_error, gradients, expected[1:])) < (bound if name in PHASES else 1e-5)


@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame])
def test_a_prepared_layer_can_be_pickled_and_copied(kind: type[nn.Conv2d]) -> None:
    layer = kind(8, 8, 3, padding=2, dilation=2, groups=8)
    train_fast_on_cpu(layer)
    images = torch.randn(1, 8, 12, 12)
    for again in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert type(again) is type(layer) and again.weight is not layer.weight
        assert torch.equal(again(images), layer(images))


def test_compiled_too() -> None:
    layer = nn.Conv2d(32, 32, 3, padding=2, dilation=2, groups=32, bias=False)
    expected = _passes(layer, [layer.weight], torch.float32, (12, 40), True)
    train_fast_on_cpu(layer)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    found = _passes(compiled, [layer.weight], torch.bfloat16, (12, 40), True)
    assert max(map(_error, found, expected)) < 0.02


def test_a_dilation_is_undone_where_it_can_be(monkeypatch) -> None:
    dilations = []
    original = torch.conv2d
    monkeypatch.setattr(
        nn.functional, "conv2d", lambda *a, **k: dilations.append(k.get("dilation") or a[5:6]) or original(*a, **k)
    )
    for dilation in (1, 2):
        layer = nn.Conv2d(8, 8, 3, padding=dilation, dilation=dilation, groups=8)
        train_fast_on_cpu(layer)
        layer(torch.randn(1, 8, 9, 9))
    assert dilations == [((1, 1),), ()]  # the second one without any


def test_nothing_else_changes() -> None:
    model = make_model(**MOBILE).eval()
    kept = copy.deepcopy(model)
    train_fast_on_cpu(kept)
    train_fast_on_cpu(kept)
    assert list(kept.state_dict()) == list(model.state_dict())
    changed = [m for m in kept.modules() if isinstance(m, _Depthwise)]
    assert changed and all(m.groups > 1 and max(*m.dilation, *m.stride) > 1 for m in changed)
    image = torch.randn(1, 3, 64, 64)
    again = copy.deepcopy(kept)
    with torch.no_grad():
        for parameter in kept.parameters():
            parameter.zero_()  # a copy has weights of its own
        assert torch.equal(again(image).logits, model(image).logits)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(again(image).logits, model(image).logits)
        assert again.bfloat16()(image.bfloat16()).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("bf16, made_anew", [(False, True), (True, False)])
def test_trainers_use_them(tmp_path, bf16: bool, made_anew: bool) -> None:
    given = {"model_init": lambda: make_model(**MOBILE)} if made_anew else {"model": make_model(**MOBILE)}
    args = SegmentationConfig(**arguments(tmp_path, bf16=bf16, max_steps=1))
    trainer = SegmentationTrainer(args=args, train_dataset=make_dataset(), **given)
    trainer.train()
    assert any(isinstance(m, _Depthwise) for m in trainer.model.modules())
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_training_lays_images_channels_last_on_cpus() -> None:
    model = make_model()
    image = torch.randn(2, 3, 64, 64)
    for training in (True, False):
        features = model.train(training)(image, output_hidden_states=True).hidden_states
        assert features[1].is_contiguous(memory_format=torch.channels_last) is training
