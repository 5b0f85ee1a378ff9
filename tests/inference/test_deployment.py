import pytest
import torch
from torch import nn
from toy import make_model, vary_batch_norm

from kaseg.inference import deployed


def test_the_same_logits_without_batch_norm_and_channels_last() -> None:
    model = vary_batch_norm(make_model(backbone="mobilenetv2_035")).eval()  # depthwise convolutions, too
    pixels = torch.randn(1, 3, 65, 97)
    with torch.inference_mode():
        expected = model(pixels).logits
        assert deployed(model.train()) is model
        found = model(pixels).logits
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-4)
    assert not model.training
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_other_models_are_left_alone() -> None:
    other = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    before = {name: value.clone() for name, value in other.state_dict().items()}
    assert deployed(other) is other and not other.training
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize("threads", [1, 2])
def test_pointwise_convolutions_with_any_number_of_threads(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = []
    by_name = torch.mkldnn_convolution

    def recorded(pixels: torch.Tensor, weight: torch.Tensor, *args: object) -> torch.Tensor:
        kernels.append(tuple(weight.shape[2:]))
        return by_name(pixels, weight, *args)

    monkeypatch.setattr(torch, "mkldnn_convolution", recorded)
    model = make_model().eval()
    pixels = torch.randn(2, 3, 33, 49)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        expected = model(pixels).logits.detach()
        deployed(model)
        found = model(pixels).logits  # with a gradient, as nobody is kept from asking for one
        assert not kernels
        with torch.inference_mode():
            fast = model(pixels).logits
            pointwise = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
            assert kernels == len(pointwise) * [(1, 1)]
            half = model.to(torch.bfloat16)(pixels.bfloat16()).logits
    finally:
        torch.set_num_threads(before)
    tolerance = {"atol": 1e-5 * float(expected.abs().max()), "rtol": 1e-4}
    torch.testing.assert_close(found.detach(), expected, **tolerance)
    torch.testing.assert_close(fast, expected, **tolerance)
    assert found.requires_grad and half.dtype == torch.bfloat16


def test_a_deployed_model_can_be_exported_and_keeps_to_autocast() -> None:
    model = make_model()
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = deployed(model)(pixels).logits
        program = torch.export.export(model, (pixels,)).module()
        torch.testing.assert_close(program(pixels).logits, expected, rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert model(pixels).logits.dtype == torch.bfloat16
