"""Inference protocols against loops written out by hand."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kaseg.evaluation.protocols import WHOLE_IMAGE, InferenceProtocol, predict_masks


class Pixelwise(nn.Module):
    """A 1x1 convolution at stride 1: no pixel knows another, so nothing but scaling can change its mask."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)
        self.calls: list[tuple[int, ...]] = []

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        self.calls.append(tuple(pixel_values.shape))
        return SimpleNamespace(logits=self.conv(pixel_values))


class Strided(nn.Module):
    """Stride 4 with context that is neither symmetric nor the same everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 7, stride=4, padding=3)

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        logits = self.conv(pixel_values)
        return SimpleNamespace(logits=3 * (logits + logits.mean(dim=(2, 3), keepdim=True)))


def resized(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def by_hand(model: nn.Module, image: torch.Tensor, size: tuple[int, int], protocol: InferenceProtocol) -> torch.Tensor:
    """Mean probabilities (num_labels, height, width) of an image (1, C, H, W)."""
    total = []
    for scale in protocol.scales:
        height, width = (int(side * scale + 0.5) for side in image.shape[-2:])
        scaled = F.interpolate(image, (height, width), mode="bilinear", align_corners=False, antialias=True)
        for mirrored in (False, True)[: 1 + protocol.flip]:
            seen = scaled.flip(-1) if mirrored else scaled
            if protocol.mode == "whole":
                logits = model(seen).logits
            else:
                logits, count = torch.zeros(1, 5, height, width), torch.zeros(height, width)
                (rows, columns), (down, across) = protocol.window, protocol.overlaps
                for y in range(0, max(height - down, 1), rows - down):
                    for x in range(0, max(width - across, 1), columns - across):
                        top, left = max(min(y, height - rows), 0), max(min(x, width - columns), 0)
                        part = seen[..., top : top + rows, left : left + columns]
                        place = (..., slice(top, top + rows), slice(left, left + columns))
                        logits[place] += resized(model(part).logits, part.shape[-2:])
                        count[place] += 1
                logits = logits / count
            logits = logits.flip(-1) if mirrored else logits
            total.append(resized(logits, size).softmax(1)[0])
    return torch.stack(total).mean(0)


PROTOCOLS = [
    InferenceProtocol(),
    InferenceProtocol(flip=True),
    InferenceProtocol(scales=(0.5, 1.0, 1.75)),
    InferenceProtocol(scales=(0.75,)),
    InferenceProtocol("slide", crop_size=32),
    InferenceProtocol("slide", crop_size=(24, 40), overlap=(8, 0)),
    InferenceProtocol("slide", crop_size=33, overlap=11, scales=(0.5, 1.25), flip=True),
    InferenceProtocol("slide", crop_size=513),
]


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=InferenceProtocol.describe)
@pytest.mark.parametrize("max_elements", [500, 2**24])
@torch.no_grad()
def test_the_hand_written_loop_gives_the_same_mask(
    protocol: InferenceProtocol, max_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaseg.evaluation.protocols.MAX_ELEMENTS", max_elements)
    model = Strided()
    images, sizes = torch.randn(3, 3, 45, 61), [(45, 61), (90, 122), (30, 33)]
    predicted = list(predict_masks(model, images, sizes, protocol))
    for image, size, mask in zip(images, sizes, predicted, strict=True):
        expected = by_hand(model, image[None], size, protocol)
        first, second = expected.topk(2, dim=0).values
        clear = first - second > 1e-4
        assert clear.float().mean() > 0.98 and mask.shape == size and mask.dtype == torch.int64
        assert torch.equal(mask[clear], expected.argmax(0)[clear])
        assert len(mask.unique()) > 2


def test_windows_of_a_picture_share_batches_and_none_is_padded() -> None:
    model, protocol = Pixelwise(), InferenceProtocol("slide", crop_size=(40, 32), overlap=0)
    list(predict_masks(model, torch.randn(2, 3, 30, 64), [(30, 64)] * 2, protocol))
    assert model.calls == [(2, 3, 30, 32)] * 2


def test_training_mode_gradients_and_types() -> None:
    model = Strided().double()
    (mask,) = predict_masks(model, torch.randn(1, 3, 20, 20), [(20, 20)], InferenceProtocol(scales=(0.5, 1.0)))
    assert not mask.requires_grad and model.conv.weight.grad is None


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"mode": "tiles"}, "mode must be 'whole' or 'slide', got 'tiles'"),
        ({"scales": ()}, "scales must be one or more positive factors"),
        ({"scales": (1.0, 0.0)}, "scales must be one or more positive factors"),
        ({"crop_size": 513}, "crop_size and overlap are for the mode 'slide'"),
        ({"mode": "slide"}, "needs crop_size"),
        ({"mode": "slide", "crop_size": 0}, "crop_size must be one number"),
        ({"mode": "slide", "crop_size": (1, 2, 3)}, "crop_size must be one number"),
        ({"mode": "slide", "crop_size": 8, "overlap": -1}, "overlap must be one number"),
        ({"mode": "slide", "crop_size": (8, 16), "overlap": 8}, "overlap must be smaller than crop_size"),
    ],
)
def test_mistakes(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InferenceProtocol(**fields)


def test_words() -> None:
    assert WHOLE_IMAGE.describe() == "whole image, single scale, dataset level, void ignored"
    slide = InferenceProtocol("slide", crop_size=513, scales=[0.75, 1], flip=True)  # type: ignore[arg-type]
    assert slide.describe() == (
        "sliding window 513x513 with overlap 171x171, scales 0.75, 1, with flips, dataset level, void ignored"
    )
    assert InferenceProtocol("slide", (769, 512)).overlaps == (256, 171)
