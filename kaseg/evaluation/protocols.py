"""Inference protocols: how a network is run over an image before its mask is scored or written."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from kaseg.evaluation.sliding import Size, average_windows
from kaseg.masks import MAX_ELEMENTS, argmax_resized, require_no_nan, resize_logits, resized_strips


@dataclass(frozen=True)
class InferenceProtocol:
    """Whole image or sliding window, at one scale or several, mirrored as well or not.

    Every pass gives logits that are resized bilinearly (`align_corners=False`) to the labels' own resolution. A single
    pass is scored by its logits; with several, the softmax probabilities of all passes are averaged, as mmsegmentation
    does. Windows are those of mmsegmentation's `slide_inference`: the last one of a row or column is moved inward to
    end with the image, an image smaller than the window is one window without padding, and logits, resized to the
    window, are averaged. Images are scaled bilinearly to `floor(side * scale + 0.5)` pixels, with antialiasing, which
    is how training scales them (mmsegmentation does without).

    Args:
        mode: "whole" or "slide".
        crop_size: Height and width of the sliding window in pixels, or one number for both; needed for "slide".
        overlap: By how many pixels neighboring windows overlap, for both sides or each; mmsegmentation's stride is
            `crop_size - overlap`. Default: a third of the window, rounded, as most of mmsegmentation's configurations
            have it.
        scales: Factors by which the prepared image is resized, one pass each. Default: 1 only.
        flip: Also run every pass on the mirrored image.

    Raises:
        ValueError: a field is out of range or does not go with the mode; the message names it.

    Example:

    ```python
    >>> from kaseg.evaluation import InferenceProtocol
    >>> InferenceProtocol().describe()
    'whole image, single scale, dataset level, void ignored'
    >>> InferenceProtocol("slide", crop_size=513, scales=(0.75, 1.0), flip=True).describe()
    'sliding window 513x513 with overlap 171x171, scales 0.75, 1, with flips, dataset level, void ignored'

    ```
    """

    mode: Literal["whole", "slide"] = "whole"
    crop_size: int | Size | None = None
    overlap: int | Size | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        if self.mode not in ("whole", "slide"):
            raise ValueError(f"mode must be 'whole' or 'slide', got {self.mode!r}.")
        if not self.scales or not all(math.isfinite(scale) and scale > 0 for scale in self.scales):
            raise ValueError(f"scales must be one or more positive factors, got {self.scales}.")
        if self.mode == "whole":
            if self.crop_size is not None or self.overlap is not None:
                raise ValueError("crop_size and overlap are for the mode 'slide'; the mode is 'whole'.")
            return
        if self.crop_size is None:
            raise ValueError("The mode 'slide' needs crop_size, the height and width of the window (such as 513).")
        for name, value, least in (("crop_size", self.crop_size, 1), ("overlap", self.overlap, 0)):
            if value is not None and (min(sides := _pair(value)) < least or len(sides) != 2):
                raise ValueError(f"{name} must be one number or (height, width), each at least {least}, got {value}.")
        if any(over >= crop for over, crop in zip(self.overlaps, self.window, strict=True)):
            raise ValueError(f"overlap must be smaller than crop_size, got {self.overlap} and {self.crop_size}.")

    @property
    def window(self) -> Size:
        """Height and width of the sliding window."""
        assert self.crop_size is not None
        return _pair(self.crop_size)

    @property
    def overlaps(self) -> Size:
        """Vertical and horizontal overlap of the windows, in pixels."""
        if self.overlap is not None:
            return _pair(self.overlap)
        return (round(self.window[0] / 3), round(self.window[1] / 3))

    @property
    def single_pass(self) -> bool:
        """Whether the network sees every image once, as it is."""
        return self.mode == "whole" and self.scales == (1.0,) and not self.flip

    def describe(self) -> str:
        """The protocol in words, as it stands beside scores."""
        parts = ["whole image"]
        if self.mode == "slide":
            (height, width), (down, across) = self.window, self.overlaps
            parts = [f"sliding window {height}x{width} with overlap {down}x{across}"]
        single = self.scales == (1.0,)
        parts.append("single scale" if single else "scales " + ", ".join(f"{scale:g}" for scale in self.scales))
        return ", ".join([*parts, *(["with flips"] if self.flip else []), "dataset level", "void ignored"])


WHOLE_IMAGE = InferenceProtocol()


@torch.inference_mode()
def predict_masks(model: Any, pixel_values: Tensor, sizes: list[Size], protocol: InferenceProtocol) -> Iterator[Tensor]:
    """Yields masks of a batch of images, int64 class ids (height, width) on the model's device, one after the other: no
    more than one image's resized logits exist at once.

    Args:
        model: Gives an object with `logits` (N, num_labels, h, w) for `pixel_values`; should be in eval mode.
        pixel_values: (B, C, H, W), moved to the model's device and dtype. In the whole-image mode with a single pass,
            all go through the network together; otherwise each alone, its windows in batches of B.
        sizes: (height, width) of each mask.
    """
    parameter = next(model.parameters())
    pixel_values = pixel_values.to(parameter.device, parameter.dtype)
    if protocol.single_pass:
        for scores, size in zip(model(pixel_values=pixel_values).logits, sizes, strict=True):
            yield argmax_resized(require_no_nan(scores[None]), size)[0]
        return
    for image, size in zip(pixel_values.split(1), sizes, strict=True):
        passes = _passes(model, image, protocol, batch_size=len(pixel_values))
        if protocol.flip or len(protocol.scales) > 1:
            yield _most_probable(passes, size)
        else:
            yield argmax_resized(require_no_nan(next(passes)), size)[0]


def _passes(model: Any, image: Tensor, protocol: InferenceProtocol, batch_size: int) -> Iterator[Tensor]:
    """The logits (1, num_labels, h, w) of every pass over an image (1, C, H, W), mirrored back where mirrored."""
    for scale in protocol.scales:
        scaled = _scaled(image, scale)
        yield _logits(model, scaled, protocol, batch_size)
        if protocol.flip:
            yield _logits(model, scaled.flip(-1), protocol, batch_size).flip(-1)


def _logits(model: Any, image: Tensor, protocol: InferenceProtocol, batch_size: int) -> Tensor:
    if protocol.mode == "whole":
        return model(pixel_values=image).logits

    def predict(parts: Tensor) -> Tensor:
        logits = model(pixel_values=parts).logits
        return resize_logits(logits, parts.shape[-2:])

    return average_windows(predict, image, protocol.window, protocol.overlaps, batch_size=batch_size)


def _scaled(image: Tensor, scale: float) -> Tensor:
    if scale == 1.0:
        return image
    size = [max(1, int(side * scale + 0.5)) for side in image.shape[-2:]]
    resized = F.interpolate(image.float(), size, mode="bilinear", align_corners=False, antialias=True)
    return resized.to(image.dtype)


def _most_probable(passes: Iterator[Tensor], size: Size) -> Tensor:
    """The class of the largest mean probability, (height, width); a sum has the same argmax as a mean."""
    total: Tensor | None = None
    for logits in passes:
        if total is None:
            total = logits.new_zeros((logits.shape[1], *size), dtype=torch.float32)
        for strip, scores in resized_strips(logits, size, MAX_ELEMENTS):
            total[:, strip] += scores[0].softmax(dim=0)
    assert total is not None
    return require_no_nan(total).max(dim=0).indices


def _pair(value: int | Size) -> Size:
    return (value, value) if isinstance(value, int) else tuple(value)  # type: ignore[return-value]
