"""Joint transforms of a picture and its label mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class _Normalize:
    """uint8 RGB picture -> float32 (3, H, W): `(pixel / 255 - mean) / std`."""

    def __init__(self, image_mean: Sequence[float], image_std: Sequence[float]) -> None:
        mean, std = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (image_mean, image_std))
        if mean.numel() != 3 or std.numel() != 3 or (std <= 0).any():
            raise ValueError(f"image_mean and image_std need 3 values, image_std positive: {image_mean}, {image_std}")
        self.scale = (1 / (255 * std)).float()
        self.shift = (-mean / std).float()

    def __call__(self, image: Image.Image) -> torch.Tensor:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return torch.addcmul(self.shift, pixels.to(torch.float32, memory_format=torch.contiguous_format), self.scale)


class TrainTransform:
    """Random scale, random crop, horizontal flip and colour jitter, then normalisation.

    The steps, in order:
        1. A scale is drawn uniformly from `scale_range` and the sample resized by it: the picture bilinearly with
           antialiasing, the mask to the nearest pixel, both with the same half-pixel geometry.
        2. A window of `crop_size` is drawn. Where the sample is smaller, it is padded at the bottom and at the right:
           the picture with `image_mean` (0 after normalisation), the mask with `ignore_index`.
        3. The sample is mirrored with probability `horizontal_flip`.
        4. The colours are jittered (torchvision's `ColorJitter`, off by default).
        5. The picture becomes `(pixel / 255 - image_mean) / image_std`.

    Scaling, cropping with padding and flipping are the recipe of DeepLabv3+ (Chen et al. 2018); He et al. 2019 name
    flips and scale jitter, without their ranges. Only the window is resized, which gives the same pixels as resizing
    everything. All draws come from torch's CPU generator.

    Args:
        crop_size: Height and width of the crop, or one number for both. DeepLab's 513 by default.
        scale_range: Lowest and highest scale.
        horizontal_flip: Probability of mirroring.
        brightness, contrast, saturation, hue: Strength of the colour jitter, as in torchvision's `ColorJitter`.
        image_mean, image_std: Normalisation in units of 0..1, per channel. Default: those of ImageNet.
        ignore_index: Label of padded pixels.
        scale_step: If given, scales are drawn from `low, low + step, ..., high` (DeepLab: 0.25) instead of uniformly.

    Example:
        >>> transform = TrainTransform(crop_size=(336, 448))
        >>> sample = transform(image, label)
        >>> sample["pixel_values"].shape, sample["labels"].shape
        (torch.Size([3, 336, 448]), torch.Size([336, 448]))
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
        ignore_index: int = 255,
        scale_step: float | None = None,
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
        self.scale_range = scale_range
        self.scale_step = scale_step
        self.horizontal_flip = horizontal_flip
        self.ignore_index = ignore_index
        self.normalize = _Normalize(image_mean, image_std)
        jitters = brightness or contrast or saturation or hue
        self.jitter = v2.ColorJitter(brightness, contrast, saturation, hue) if jitters else None

    def __call__(self, image: Image.Image, label: Image.Image) -> dict[str, torch.Tensor]:
        """Transforms a sample.

        Args:
            image: Picture of mode "RGB".
            label: Mask of mode "L" and the same size, holding train ids.

        Returns:
            `pixel_values`, float32 (3, crop height, crop width), and `labels`, int64 (crop height, crop width).

        Raises:
            ValueError: If the sizes differ.
        """
        check_same_size(image, label)
        size, box = self._draw_window(image.width, image.height)
        image = image.resize(size, Image.Resampling.BILINEAR, box=box)
        label = label.resize(size, Image.Resampling.NEAREST, box=box)
        flip = bool(torch.rand(()) < self.horizontal_flip)
        if self.jitter is not None:
            image = self.jitter(image)

        width, height = size
        pixel_values = torch.zeros(3, *self.crop_size)
        labels = torch.full(self.crop_size, self.ignore_index, dtype=torch.int64)
        pixel_values[:, :height, :width] = self.normalize(image)
        labels[:height, :width] = torch.from_numpy(np.array(label))
        if flip:
            pixel_values, labels = pixel_values.flip(-1), labels.flip(-1)
        return {"pixel_values": pixel_values, "labels": labels}

    def _draw_scale(self) -> float:
        low, high = self.scale_range
        if self.scale_step is None:
            return float(torch.empty(()).uniform_(low, high))
        steps = int((high - low) / self.scale_step + 1e-6)
        return low + self.scale_step * int(torch.randint(steps + 1, ()))

    def _draw_window(self, width: int, height: int) -> tuple[tuple[int, int], tuple[float, float, float, float]]:
        """Draws scale and crop. Returns the size of what is cut out, and where it lies in the source picture."""
        scale = self._draw_scale()
        left, right, out_width = self._draw_interval(width, scale, self.crop_size[1])
        top, bottom, out_height = self._draw_interval(height, scale, self.crop_size[0])
        return (out_width, out_height), (left, top, right, bottom)

    @staticmethod
    def _draw_interval(length: int, scale: float, crop: int) -> tuple[float, float, int]:
        scaled = max(1, round(length * scale))
        start = int(torch.randint(max(0, scaled - crop) + 1, ()))
        stop = min(start + crop, scaled)
        # min(): rounding must not carry the box beyond the picture, which Pillow refuses.
        return start * length / scaled, min(stop * length / scaled, length), stop - start


class EvalTransform:
    """Normalisation, with an optional resize of the picture. The mask keeps its resolution.

    Args:
        image_mean, image_std: Normalisation in units of 0..1, per channel. Default: those of ImageNet.
        size: Length of the short edge that the picture is resized to (bilinear, antialiased). Default: no resizing.
    """

    def __init__(
        self,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
        size: int | None = None,
    ) -> None:
        if size is not None and size < 1:
            raise ValueError(f"size is {size}; it must be positive, or None for no resizing.")
        self.normalize = _Normalize(image_mean, image_std)
        self.size = size

    def __call__(self, image: Image.Image, label: Image.Image) -> dict[str, torch.Tensor]:
        """Transforms a sample.

        Args:
            image: Picture of mode "RGB".
            label: Mask of mode "L" and the same size, holding train ids.

        Returns:
            `pixel_values`, float32 (3, h, w), and `labels`, int64 (H, W) at the mask's own size.

        Raises:
            ValueError: If the sizes differ.
        """
        check_same_size(image, label)
        if self.size is not None:
            scale = self.size / min(image.size)
            new_size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            image = image.resize(new_size, Image.Resampling.BILINEAR)
        return {
            "pixel_values": self.normalize(image),
            "labels": torch.from_numpy(np.array(label, dtype=np.int64)),
        }


def check_same_size(image: Image.Image, label: Image.Image, sample: str | None = None) -> None:
    """Raises a ValueError that names both sizes if picture and mask differ in size."""
    if image.size != label.size:
        where = f"Sample {sample}: " if sample is not None else ""
        raise ValueError(
            f"{where}the image is {image.width}x{image.height} and its label mask {label.width}x{label.height} "
            "(width x height). They must have the same size."
        )
