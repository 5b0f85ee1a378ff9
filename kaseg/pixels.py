"""From images to RGB and to pixel values, for everyone who needs them.

The file is flat and imports only flat files beside it, so that it can lie in a Hub repository beside the image
processor.
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch
from PIL import ExifTags, Image

from .configuration_kaseg import VOID as VOID

# By the orientation that EXIF data give.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where Pillow looks for the orientation.
_EXIF_KEYS = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
TURNED = "turned by kaseg"  # a key of the `info` of images that `upright` has turned
_MASK_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")
# uint16 covers 0..65535, and 65535 / 255 = 257 exactly.
SIXTEEN_TO_EIGHT_BIT = 257
# Formats in which all images but the first are previews or layers: many phones write their photos as MPO.
_FIRST_IS_WHOLE = ("MPO", "PSD")
# Images of a TIFF file that are smaller copies (1) or the transparency (4) of another one: bits of NewSubfileType.
_SUBFILE_TYPE, _NOT_ITS_OWN = 254, 1 | 4
# 16-bit images of which no value reaches this are taken for ones of 10 or 12 bits (our choice).
_BRIGHT = 65536 // 8
_found_dark: list[str] = []  # the first one; others would say the same


def decoded(file: Any, name: str | None = None) -> Image.Image:
    """Reads an image file: a path or a stream.

    Args:
        file: What Pillow opens.
        name: Of an image, for the warning that it is dark because few of its 16 bits are used. Masks get no warning.

    Raises:
        ValueError: It holds several images, such as a stack or an animation; Pillow would give the first.
        OSError: As Pillow raises it.
    """
    with Image.open(file) as image:
        if (count := _number_of_images(image)) > 1:
            raise ValueError(
                f"it holds {count} images (pages or frames), of which only the first would be used: save each to a "
                "file of its own, or an animation as a video (ffmpeg -i NAME.gif NAME.mp4) for kaseg predict"
            )
        has_16_bits = any(";16" in str(tile[3]) for tile in image.tile)
        if image.format == "TIFF" and image.tag_v2.get(ExifTags.Base.Orientation) in _TURNS:  # type: ignore[attr-defined]
            image.info[TURNED] = True  # by Pillow, while it loads
        image.load()
    if name is not None and has_16_bits:
        values = np.asarray(image)
        if not image.mode.startswith("I"):  # Pillow keeps the upper half of colors
            values = values[..., :3].astype(np.int32) * 256
        _warn_if_dark(int(values.max()), name)
    return image


def _number_of_images(image: Image.Image) -> int:
    count = getattr(image, "n_frames", 1)
    if image.format in _FIRST_IS_WHOLE or count == 1:
        return 1
    if image.format == "TIFF":
        kinds = []
        for page in reversed(range(count)):  # so that the first one comes last
            image.seek(page)
            kinds.append(image.tag_v2.get(_SUBFILE_TYPE, 0))  # type: ignore[attr-defined]
        count = sum(not kind & _NOT_ITS_OWN for kind in kinds)
    return count


def _warn_if_dark(highest: int, name: str) -> None:
    if 0 < highest < _BRIGHT and not _found_dark:
        _found_dark.append(name)
        warnings.warn(
            f"{name} has 16 bits, but no value above {highest} of 65535, so it is almost black in 8 bits. Values of 12 "
            "bits should be multiplied by 16 (10 bits: 64) in the files. Further images are not named.",
            stacklevel=3,
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """Makes an upright 8-bit image of mode `RGB` of any PIL image.

    The EXIF orientation is applied. Transparency is dropped, not blended, as `transformers.image_utils.load_image`
    does. 16-bit gray values (modes `I;16*`, and `I`, which is how older Pillow versions open 16-bit PNG files) are
    divided by 257 and rounded. Pillow alone, and so `pipeline("image-segmentation")`, clips them at 255: give a
    pipeline `to_rgb(image)`.

    Raises:
        ValueError: For mode `F`, whose value range is unknown, and for mode `I` outside 0..65535.
    """
    image = upright(image)
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ValueError("a PIL image of mode 'F' has no fixed range of values: convert it to 8 bits first")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(
                f"a PIL image of mode '{image.mode}' is read as 16-bit gray, but its values reach from {values.min()} "
                f"to {values.max()}: convert it to 8 bits first"
            )
        _warn_if_dark(int(values.max()), "An image")
        image = Image.fromarray(np.rint(values / SIXTEEN_TO_EIGHT_BIT).astype(np.uint8))
    elif image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # or Pillow warns
    return image.convert("RGB")


def upright(image: Image.Image) -> Image.Image:
    """Turns an image as its EXIF orientation says and notes it in its `info` (`TURNED`); returns it as it is where
    there is none or it cannot be read."""
    # Not ImageOps.exif_transpose: it writes the EXIF data anew, and fails on broken ones beside good pixels.
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises whatever the broken bytes run into
        return image
    if turn is None:
        return image
    turned = image.transpose(turn)
    for key in _EXIF_KEYS:  # or the next to look would turn it once more
        turned.info.pop(key, None)
    turned.info[TURNED] = True
    return turned


def single_images(images: Any, single_ndims: tuple[int, ...]) -> list[Any]:
    """Lists single images, of `single_ndims` dimensions, out of nested lists and batched arrays; a ValueError if an
    array is neither one image nor a batch, a TypeError for something else than PIL images, arrays, tensors and
    paths."""
    if isinstance(images, list | tuple):
        return [single for item in images for single in single_images(item, single_ndims)]
    if isinstance(images, Image.Image | str | os.PathLike):
        return [images]
    if isinstance(images, np.ndarray | torch.Tensor):
        if images.ndim in single_ndims:
            return [images]
        if images.ndim == max(single_ndims) + 1:
            return list(images)
        raise ValueError(
            f"an array of shape {tuple(images.shape)} is neither one image nor a batch: one has "
            f"{' or '.join(map(str, single_ndims))} dimensions"
        )
    raise TypeError(f"expected PIL images, arrays, tensors or paths, found {type(images).__name__}")


def as_tensor(array: Any) -> torch.Tensor:
    """Wraps an array; torch refuses negative strides and foreign byte orders, and warns at read-only memory."""
    if isinstance(array, torch.Tensor):
        return array
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def channels_first(tensor: torch.Tensor, customary: int, plausible: tuple[int, ...]) -> torch.Tensor:
    """Makes (C, H, W) of (H, W), (H, W, C) or (C, H, W), where the numbers of channels in `plausible` (empty: any) are
    looked for at the end `customary`, 0 or -1, and then at the other one; a ValueError if neither end has one."""
    if tensor.ndim == 2:
        return tensor.unsqueeze(0)
    for end in (customary, -1 - customary):
        if not plausible or tensor.shape[end] in plausible:
            return tensor.movedim(end, 0)
    raise ValueError(
        f"its shape {tuple(tensor.shape)} has no end with {' or '.join(map(str, plausible))} channels: pass "
        "input_data_format, or, for another number of channels, do_convert_rgb=False with image_mean and image_std of "
        "that length"
    )


def rgb_of_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Makes three 8-bit channels of (C, H, W): one is repeated, the alpha of two or four is dropped."""
    if tensor.dtype == torch.uint16:
        _warn_if_dark(int(tensor.to(torch.int32).max()), "An image")
        tensor = (tensor.to(torch.float32) / SIXTEEN_TO_EIGHT_BIT).round().to(torch.uint8)
    elif tensor.dtype == torch.bool:
        tensor = tensor.to(torch.uint8) * 255
    if tensor.shape[0] not in (1, 2, 3, 4):
        raise ValueError(f"{tensor.shape[0]} channels cannot be made RGB: pass do_convert_rgb=False to keep them")
    return tensor[:1].expand(3, -1, -1) if tensor.shape[0] < 3 else tensor[:3]


def class_ids(mask: Any, where: str) -> torch.Tensor:
    """Makes int64 (1, H, W) of a mask of class ids: a path, a PIL image, an array or a tensor (H, W). A ValueError that
    starts with `where` if it holds colors or floating point numbers."""
    if isinstance(mask, str | os.PathLike):
        try:
            mask = decoded(mask)
        except ValueError as error:
            raise ValueError(f"{where}, {mask}: {error}") from error
    if isinstance(mask, Image.Image):
        if mask.mode not in _MASK_MODES:
            raise ValueError(
                f"{where} is a PIL image of mode '{mask.mode}': its pixels are colors, not class ids. Map the colors "
                f"to ids first; modes that hold ids: {', '.join(_MASK_MODES)}"
            )
        mask = np.array(upright(mask))
    tensor = as_tensor(mask)
    if tensor.is_floating_point():
        raise ValueError(f"{where} has dtype {tensor.dtype}: class ids must be integers")
    return tensor.to(torch.int64).unsqueeze(0)


def check_same_size(image: tuple[int, int], label: tuple[int, int], where: str = "") -> None:
    """Raises a ValueError, which starts with `where` and names both sizes, if (width, height) of an image and of its
    label mask differ."""
    if image != label:
        turned = " (Images are turned as their EXIF orientation says; so must their masks be.)" * (image == label[::-1])
        raise ValueError(
            f"{where}the image is {image[0]}x{image[1]} and its label mask {label[0]}x{label[1]} (width x height). "
            f"They must have the same size.{turned}"
        )


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of pixels in 0..1, and the order of their channels.

    Called with values in 0..255, (..., C, H, W) and red first, it gives pixel values, float32.

    Args:
        mean: One per channel, red first.
        std: One per channel, red first.
        flip_channels: Whether the network reads BGR.

    Raises:
        ValueError: If mean and std differ in length, or a std is not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip_channels: bool = False

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise ValueError(
                f"image_mean and image_std need one value per channel, image_std positive: {self.mean}, {self.std}"
            )

    @classmethod
    def of_options(
        cls,
        do_rescale: bool | None,
        rescale_factor: float | None,
        do_normalize: bool | None,
        image_mean: float | Sequence[float] | None,
        image_std: float | Sequence[float] | None,
        num_channels: int = 3,
    ) -> Self:
        """Reads the options that all image processors of transformers share.

        One that does not normalize leaves pixels in 0..1, one that does not rescale either in 0..255.
        """
        factor = 255.0 if not do_rescale or rescale_factor is None else 255 * rescale_factor
        mean, std = (0.0,) * num_channels, (1.0,) * num_channels
        # Processors such as MobileViT's have no mean at all.
        if do_normalize and image_mean is not None and image_std is not None:
            mean, std = per_channel(image_mean, num_channels), per_channel(image_std, num_channels)
        return cls(tuple(value / factor for value in mean), tuple(value / factor for value in std))

    @classmethod
    def of_processor(cls, processor: Any) -> Self:
        """Reads how an image processor of transformers makes pixel values.

        Raises:
            ValueError: On an example image, where it is told not to resize, crop or pad, it makes other pixel values
                than these options say.
        """
        names = ("rescale_factor", "do_normalize", "image_mean", "image_std")
        options: dict[str, Any] = {name: getattr(processor, name, None) for name in names}
        found = cls.of_options(getattr(processor, "do_rescale", True), **options)
        if getattr(processor, "do_flip_channel_order", False):
            found = replace(found, flip_channels=True)
        _check_processor(found, processor)
        return found

    def scale_and_shift(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns scale and shift, float32 (C, 1, 1), with which [`normalize`] makes pixel values of 0..255."""
        return _scale_and_shift(self.mean, self.std)

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        scale, shift = (factor.to(values.device) for factor in self.scale_and_shift())
        normalized = normalize(values, scale, shift)
        return normalized.flip(-3) if self.flip_channels else normalized

    def from_student(self, mean: Sequence[float], std: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns scale and shift (1, C, 1, 1) that turn pixels normalized with the student's `mean` and `std` into
        these."""
        own_mean, own_std, from_mean, from_std = (
            torch.tensor(per_channel(v), dtype=torch.float64) for v in (self.mean, self.std, mean, std)
        )
        scale, shift = from_std / own_std, (from_mean - own_mean) / own_std
        return scale.float().view(1, -1, 1, 1), shift.float().view(1, -1, 1, 1)


def normalize(
    values: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Computes `values * scale + shift` in float32, the one way in which kaseg makes pixel values."""
    return torch.addcmul(shift, values.float(), scale, out=out)


@lru_cache(maxsize=32)
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    means, stds = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (mean, std))
    return (1 / (255 * stds)).float(), (-means / stds).float()


def per_channel(values: float | Sequence[float], num_channels: int = 3) -> tuple[float, ...]:
    """Returns one float per channel, where one number may stand for all."""
    return (float(values),) * num_channels if isinstance(values, int | float) else tuple(map(float, values))


def _check_processor(normalization: Normalization, processor: Any) -> None:
    height, width = 64, 96  # multiples of what processors pad to
    example = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = normalization(torch.from_numpy(example).permute(2, 0, 1))
    without = {"do_resize": False, "do_center_crop": False, "do_pad": False}
    found = processor(Image.fromarray(example), **without, return_tensors="pt")["pixel_values"][0]
    name = type(processor).__name__
    if found.shape != expected.shape:
        raise ValueError(
            f"{name} makes pixel values of shape {tuple(found.shape)} of an image (3, {height}, {width}), although it "
            "was told not to resize, crop or pad. Pass a KASegImageProcessor."
        )
    difference = float((found.float() - expected).abs().max() / expected.std())
    if not difference < 1e-4:
        raise ValueError(
            f"{name} makes other pixel values than its mean, standard deviation and rescale factor say (by up to "
            f"{difference:.2g} of their standard deviation). Pass a KASegImageProcessor."
        )
