"""Joint transforms of an image and its label mask.

On PIL images and not on torchvision's `tv_tensors`, which take longer: Pillow cuts out and resizes the crop in one step
(`tests/benchmarks/data_loading.py` has a torchvision pipeline beside it).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import pad
from torchvision.transforms import v2
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from kaseg.data.photometric import PhotometricDistortion
from kaseg.image_processing_kaseg import pixel_values_of
from kaseg.pixels import VOID, Normalization, check_same_size, normalize, to_rgb

IMAGENET_MEAN, IMAGENET_STD = tuple(IMAGENET_DEFAULT_MEAN), tuple(IMAGENET_DEFAULT_STD)
View = tuple[float, float, float, float]
MAX_REDRAWS = 10  # of a window in which one class prevails; mmsegmentation's number


class _Normalize:
    """uint8 RGB image -> float32 (3, H, W): `(pixel / 255 - mean) / std`."""

    def __init__(self, image_mean: Sequence[float], image_std: Sequence[float]) -> None:
        normalization = Normalization(tuple(image_mean), tuple(image_std))
        if len(normalization.mean) != 3:
            raise ValueError(f"image_mean and image_std need 3 values, for RGB: {image_mean}, {image_std}")
        self.scale, self.shift = normalization.scale_and_shift()

    def __call__(self, image: Image.Image, size: tuple[int, int], left: int = 0) -> torch.Tensor:
        """The image at the top of a canvas of `size` (height, width), `left` pixels from its left; 0 elsewhere."""
        canvas = torch.zeros(3, *size)
        # Band by band and in place: one pass from bytes to floats and no second image of floats.
        for plane, band, shift, scale in zip(canvas, image.split(), self.shift, self.scale, strict=True):
            window = plane[: image.height, left : left + image.width]
            window.copy_(torch.from_numpy(np.array(band)))
            normalize(window, scale, shift, out=window)
        return canvas


def _place_labels(label: Image.Image, size: tuple[int, int], left: int = 0) -> torch.Tensor:
    """The mask as int64 at the same place of a canvas of void as [`_Normalize`] puts the image."""
    canvas = torch.full(size, VOID, dtype=torch.int64)
    canvas[: label.height, left : left + label.width] = torch.from_numpy(np.array(label))
    return canvas


def check_edges(name: str, short_edge: int | None, max_long_edge: int | None) -> None:
    """Raises a ValueError, with the first one's name, for edges that no image can be resized to."""
    if short_edge is not None and short_edge < 1:
        raise ValueError(f"{name} is {short_edge}; it must be positive, or None for no resizing.")
    if max_long_edge is not None and (short_edge is None or max_long_edge < short_edge):
        raise ValueError(
            f"max_long_edge is {max_long_edge} and {name} {short_edge}; give both, the larger one to the first."
        )


class TrainTransform:
    """Random scale, random crop, horizontal flip and distortion of colors, then normalization.

    The steps, in order:
        1. A scale is drawn uniformly from `scale_range` and the sample resized by it: the image bilinearly with
           antialiasing, the mask to the nearest pixel, both with the same half-pixel geometry.
        2. A window of `crop_size` is drawn. Where the sample is smaller, it is padded at the bottom and at the right:
           the image with `image_mean` (0 after normalization), the mask with void.
        3. The sample is mirrored with probability `horizontal_flip`.
        4. The colors are jittered (torchvision's `ColorJitter`), then distorted
           ([`~kaseg.data.photometric.PhotometricDistortion`]); both are off by default.
        5. The image becomes `(pixel / 255 - image_mean) / image_std`.

    Scaling, cropping with padding and flipping are the recipe of DeepLabv3+ (Chen et al. 2018); He et al. 2019 name
    flips and scale jitter, without their ranges. `short_edge`, `max_long_edge`, `cat_max_ratio` and
    `photometric_distortion` follow the recipes of mmsegmentation, which has 0.75 for `cat_max_ratio`. Only the window
    is resized, and once, which gives the same pixels as resizing everything. All draws come from torch's CPU generator.

    Args:
        crop_size: Height and width of the crop, or one number for both. DeepLab's 513 by default.
        scale_range: Lowest and highest scale.
        horizontal_flip: Probability of mirroring.
        brightness, contrast, saturation, hue: Strength of the color jitter, as in torchvision's `ColorJitter`.
        image_mean, image_std: Normalization in units of 0..1, per channel. Default: those of ImageNet.
        scale_step: If given, scales are drawn from `low, low + step, ..., high` (DeepLab: 0.25) instead of uniformly.
        short_edge: Length of the short edge in pixels that scale 1 stands for. Default: the image's own.
        max_long_edge: Limit of the long edge at scale 1, which goes before `short_edge`. Default: none.
        cat_max_ratio: Draw the window again, up to 10 times, while one class has this share or more of its labelled
            pixels. Default 1: do not look.
        photometric_distortion: Whether to distort the colors.

    Raises:
        ValueError: A setting is out of its range; the message names it.
    """

    def __init__(
        self,
        crop_size: int | tuple[int, int] = 513,
        scale_range: tuple[float, float] = (0.5, 2.0),
        horizontal_flip: float = 0.5,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
        scale_step: float | None = None,
        short_edge: int | None = None,
        max_long_edge: int | None = None,
        cat_max_ratio: float = 1.0,
        photometric_distortion: bool = False,
    ) -> None:
        self.crop_size = (crop_size, crop_size) if isinstance(crop_size, int) else (crop_size[0], crop_size[1])
        if min(self.crop_size) < 1:
            raise ValueError(f"crop_size is {crop_size}; it must be positive.")
        if not 0 < scale_range[0] <= scale_range[1]:
            raise ValueError(f"scale_range is {scale_range}; give (low, high) with 0 < low <= high.")
        if scale_step is not None and scale_step <= 0:
            raise ValueError(f"scale_step is {scale_step}; it must be positive, or None for uniform scales.")
        if not 0 <= horizontal_flip <= 1:
            raise ValueError(f"horizontal_flip is {horizontal_flip}; it is a probability.")
        if not 0 < cat_max_ratio <= 1:
            raise ValueError(f"cat_max_ratio is {cat_max_ratio}; it is a share in 0..1, and 1 turns it off.")
        check_edges("short_edge", short_edge, max_long_edge)
        self.scale_range = scale_range
        self.scale_step = scale_step
        self.short_edge = short_edge
        self.max_long_edge = max_long_edge
        self.cat_max_ratio = cat_max_ratio
        self.horizontal_flip = horizontal_flip
        self.normalize = _Normalize(image_mean, image_std)
        jitters = brightness or contrast or saturation or hue
        self.jitter = v2.ColorJitter(brightness, contrast, saturation, hue) if jitters else None
        self.distortion = PhotometricDistortion() if photometric_distortion else None

    def __call__(self, image: Image.Image, label: Image.Image) -> dict[str, torch.Tensor]:
        """Transforms a sample.

        Args:
            image: One that is not upright RGB is made so ([`~kaseg.pixels.to_rgb`]).
            label: Mask of mode "L" and the same size, holding train ids.

        Returns:
            `pixel_values`, float32 (3, crop height, crop width), and `labels`, int64 (crop height, crop width).

        Raises:
            ValueError: The sizes differ, there is no mask or it holds colors, or pixels of unknown range.
        """
        return self.with_view(image, label)[0]

    def with_view(self, image: Image.Image, label: Image.Image) -> tuple[dict[str, torch.Tensor], View]:
        """As a call, and where the crop lies in the image: `(x0, y0, dx, dy)`, by which the point `(x, y)` of the crop
        is the point `(x0 + dx * x, y0 + dy * y)` of the image, both in pixels from their top left corners."""
        image = to_rgb(image)
        check_sample(image, label)
        label, box = self._draw_window(label)
        image = image.resize(label.size, Image.Resampling.BILINEAR, box=box)
        flip = bool(torch.rand(()) < self.horizontal_flip)
        if self.jitter is not None:
            image = self.jitter(image)
        if self.distortion is not None:
            image = self.distortion(image)

        left = 0
        if flip:  # the padding changes sides
            image, label = (part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for part in (image, label))
            left = self.crop_size[1] - label.width
        inputs = {
            "pixel_values": self.normalize(image, self.crop_size, left),
            "labels": _place_labels(label, self.crop_size, left),
        }
        dx, dy = (box[2] - box[0]) / label.width, (box[3] - box[1]) / label.height
        if flip:
            return inputs, (box[2] + dx * left, box[1], -dx, dy)
        return inputs, (box[0], box[1], dx, dy)

    def _draw_scale(self) -> float:
        low, high = self.scale_range
        if self.scale_step is None:
            return float(torch.empty(()).uniform_(low, high))
        steps = int((high - low) / self.scale_step + 1e-6)
        return low + self.scale_step * int(torch.randint(steps + 1, ()))

    def _draw_window(self, label: Image.Image) -> tuple[Image.Image, tuple[float, float, float, float]]:
        """Draws scale and crop. Returns what is cut out of the mask, and where it lies in the source."""
        scale = self._draw_scale()
        if self.short_edge is not None:
            limit = math.inf if self.max_long_edge is None else self.max_long_edge / max(label.size)
            scale *= min(self.short_edge / min(label.size), limit)
        for redraws_left in range(MAX_REDRAWS, -1, -1):
            left, right, width = self._draw_interval(label.width, scale, self.crop_size[1])
            top, bottom, height = self._draw_interval(label.height, scale, self.crop_size[0])
            box = (left, top, right, bottom)
            window = label.resize((width, height), Image.Resampling.NEAREST, box=box)
            is_only_window = box == (0, 0, *label.size)
            if is_only_window or redraws_left == 0 or self._is_varied(window):
                break
        return window, box

    def _is_varied(self, window: Image.Image) -> bool:
        """Whether every class has less than `cat_max_ratio` of the labelled pixels."""
        if self.cat_max_ratio >= 1:
            return True
        counts = window.histogram()
        counts[VOID] = 0
        return max(counts) < self.cat_max_ratio * sum(counts)

    @staticmethod
    def _draw_interval(length: int, scale: float, crop: int) -> tuple[float, float, int]:
        scaled = max(1, round(length * scale))
        start = int(torch.randint(max(0, scaled - crop) + 1, ()))
        stop = min(start + crop, scaled)
        # min(): rounding must not carry the box beyond the image, which Pillow refuses.
        return start * length / scaled, min(stop * length / scaled, length), stop - start


class EvalTransform:
    """The pixel values that an image processor makes, or normalization alone, and optional padding.

    The mask keeps its resolution. Padding lies at the bottom and at the right: the image's is `image_mean` (0 after
    normalization), the mask's is void, so that no score counts it. Where the processor resizes the image, the mask's
    padding is that of the image to the nearest pixel of the mask: both then agree to half a pixel of the mask.

    Args:
        image_mean, image_std: Normalization in units of 0..1, per channel. Default: those of ImageNet.
        size_divisor: If given, the image's height and width are padded up to multiples of it.
        image_processor: If given, it makes the pixel values, in place of `image_mean` and `image_std`.

    Raises:
        ValueError: A setting is out of its range; the message names it.
    """

    def __init__(
        self,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
        size_divisor: int | None = None,
        image_processor: Any = None,
    ) -> None:
        if size_divisor is not None and size_divisor < 1:
            raise ValueError(f"size_divisor is {size_divisor}; it must be positive, or None for no padding.")
        self.normalize = _Normalize(image_mean, image_std)
        self.size_divisor = size_divisor
        self.image_processor = image_processor

    def __call__(self, image: Image.Image, label: Image.Image) -> dict[str, torch.Tensor]:
        """Transforms a sample as [`TrainTransform`] does.

        Returns:
            `pixel_values`, float32 (3, h, w), and `labels`, int64 (H, W) at the mask's own size and its padding.
        """
        image = to_rgb(image)
        check_sample(image, label)
        if self.image_processor is None:
            height, label_height = self._padded(image.height, label.height)
            width, label_width = self._padded(image.width, label.width)
            pixel_values = self.normalize(image, (height, width))
        else:
            prepared = pixel_values_of(self.image_processor, image)[0]
            height, label_height = self._padded(prepared.shape[-2], label.height)
            width, label_width = self._padded(prepared.shape[-1], label.width)
            pixel_values = pad(prepared, (0, width - prepared.shape[-1], 0, height - prepared.shape[-2]))
        return {
            "pixel_values": pixel_values,
            "labels": _place_labels(label, (label_height, label_width)),
        }

    def _padded(self, length: int, label_length: int) -> tuple[int, int]:
        """Lengths of an edge of the image and of the mask with their padding."""
        divisor = self.size_divisor or 1
        padded = -(-length // divisor) * divisor
        return padded, round(padded * label_length / length)


def check_sample(image: Image.Image, label: Image.Image | None, sample: str | None = None) -> None:
    """Raises a ValueError that names both sizes if image and mask differ in size, or says that there is no mask or
    that it holds colors."""
    where = f"Sample {sample}: " if sample is not None else ""
    if label is None:
        raise ValueError(f"{where}there is no label mask (a test split?). Train and score on a split with labels.")
    if len(label.getbands()) != 1:
        raise ValueError(
            f"{where}the label mask has mode {label.mode!r}; it needs one class index per pixel (mode 'L')."
        )
    check_same_size(image.size, label.size, where)
