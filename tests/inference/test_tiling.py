"""Tiled prediction against the untiled one."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kaseg.inference.tiling import tiled_logits
from kaseg.modeling_kaseg import align_to_image


class LocalModel(nn.Module):
    """Stride 4; every logit depends on its own 4x4 pixels only, so tiling must not change anything."""

    def __init__(self, context: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(5, 3, 4, 4, generator=generator))
        self.context = context
        self.calls: list[tuple[int, int]] = []

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        height, width = pixel_values.shape[-2:]
        self.calls.append((height, width))
        padded = F.pad(pixel_values, (0, -width % 4, 0, -height % 4))
        logits = F.conv2d(padded, self.weight, stride=4)
        if self.context:
            logits = F.avg_pool2d(logits, 2 * self.context + 1, stride=1, padding=self.context)
        return SimpleNamespace(logits=logits)


class SpanningModel(LocalModel):
    """The same with `pad_to_stride`: padded to a multiple of 8, and spanning the image."""

    config = SimpleNamespace(pad_to_stride=True)

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        size = pixel_values.shape[-2:]
        padded = F.pad(pixel_values, (0, -size[1] % 8, 0, -size[0] % 8))
        return SimpleNamespace(logits=align_to_image(super().forward(padded).logits, size, 4))


@pytest.mark.parametrize("kind", [LocalModel, SpanningModel])
@pytest.mark.parametrize("size", [(64, 64), (65, 67), (97, 61), (31, 200), (130, 30), (160, 161)])
@pytest.mark.parametrize("overlap", [0, 10, 32])
def test_a_model_without_context_gives_the_untiled_logits(kind: type, size: tuple[int, int], overlap: int) -> None:
    model = kind()
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    tiled = tiled_logits(model, pixels, tile=64, overlap=overlap)
    assert kind is SpanningModel or all(height <= 64 and width <= 64 for height, width in model.calls)
    torch.testing.assert_close(tiled, model(pixels).logits, atol=1e-5, rtol=1e-5)


def test_one_tile_is_the_model_itself() -> None:
    model = LocalModel(context=3)
    pixels = torch.randn(1, 3, 63, 64)
    assert torch.equal(tiled_logits(model, pixels, tile=64, overlap=16), model(pixels).logits)
    assert len(model.calls) == 2


def test_overlaps_are_averaged() -> None:
    model = LocalModel(context=2)
    pixels = torch.randn(1, 3, 64, 96)
    left, right = model(pixels[..., :64]).logits, model(pixels[..., 32:]).logits
    expected = torch.cat([left[..., :8], (left[..., 8:] + right[..., :8]) / 2, right[..., 8:]], dim=-1)
    torch.testing.assert_close(tiled_logits(model, pixels, tile=64, overlap=32), expected)
    assert not torch.allclose(expected, model(pixels).logits)


def test_unusable_tiles_are_refused() -> None:
    model, pixels = LocalModel(), torch.randn(1, 3, 100, 100)
    with pytest.raises(ValueError, match="tile=100"):
        tiled_logits(model, pixels, tile=100, overlap=0)
    with pytest.raises(ValueError, match="overlap=64"):
        tiled_logits(model, pixels, tile=64, overlap=64)
    with pytest.raises(ValueError, match="overlap=62"):
        tiled_logits(model, pixels, tile=64, overlap=62)


def test_a_model_that_rounds_sizes_down_is_refused() -> None:
    class RoundsDown(LocalModel):
        def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=F.conv2d(pixel_values, self.weight, stride=4))

    with pytest.raises(ValueError, match="cannot be tiled"):
        tiled_logits(RoundsDown(), torch.randn(1, 3, 66, 66), tile=64, overlap=0)
