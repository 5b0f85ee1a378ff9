"""Samples of users' own datasets, in the forms that they come in, as an image and its mask."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from kaseg.data.samples import IMAGE_COLUMNS, LABEL_COLUMNS

_FORMS = (
    "A sample is a dictionary with an image (PIL, or uint8 of shape (H, W, 3) or (3, H, W)) and its mask (PIL or "
    "integers (H, W), one class id per pixel), a pair of the two, or has normalized pixel_values (3, H, W) and labels."
)


def standard_sample(sample: Any, with_label: bool = True, may_lack_label: bool = False) -> dict[str, Any]:
    """Gives the sample with `image` and `label` as PIL images, or, where it has normalized `pixel_values` already, with
    these as float32 (3, H, W) and `labels` as int64 (H, W). Other fields are kept.

    Where `image` and `label` have other names, the usual ones of [`load_segmentation_dataset`] are looked for.

    Args:
        sample: A mapping, or a pair (image, mask) as torchvision's datasets give it. Images and masks may be PIL
            images, arrays or tensors, such as `with_format("torch")` makes. Else a ValueError names the field.
        with_label: Whether masks are wanted; the mask may be `None` all the same.
        may_lack_label: Whether a sample may be an image, perhaps with its `id`, and nothing else.
    """
    if isinstance(sample, tuple | list) and len(sample) == 2:
        sample = {"image": sample[0], "label": sample[1]}
    if not isinstance(sample, Mapping):
        raise ValueError(f"it is a {type(sample).__name__}. {_FORMS}")
    if is_prepared(sample):
        return _prepared(sample)
    image_field = _find(sample, IMAGE_COLUMNS, "image")
    found = {key: value for key, value in sample.items() if key != image_field}
    label = None
    if with_label and not (may_lack_label and found.keys() <= {"id"}):
        label_field = _find(sample, LABEL_COLUMNS, "mask")
        label = found.pop(label_field)
        label = label if label is None else _mask(label, label_field)
    return {**found, "image": _image(sample[image_field], image_field), "label": label}


def is_prepared(sample: Mapping[str, Any]) -> bool:
    """Whether a sample holds what a model takes, and no image any more."""
    values = sample.get("pixel_values")
    return values is not None and not isinstance(values, Image.Image) and _array(values).dtype.kind == "f"


def _prepared(sample: Mapping[str, Any]) -> dict[str, Any]:
    pixels = torch.as_tensor(_array(sample["pixel_values"])).float()
    if pixels.ndim != 3:
        raise ValueError(f"its pixel_values have the shape {tuple(pixels.shape)}, not (channels, H, W).")
    field = "labels" if "labels" in sample else _find(sample, LABEL_COLUMNS, "mask")
    labels = np.asarray(_mask(sample[field], field)).astype(np.int64)
    rest = {key: value for key, value in sample.items() if key != field}
    return {**rest, "pixel_values": pixels, "labels": torch.from_numpy(labels)}


def _find(sample: Mapping[str, Any], usual: tuple[str, ...], what: str) -> str:
    for field in usual:
        if field in sample:
            return field
    raise ValueError(
        f"it has the fields {', '.join(map(str, sample))} and none for its {what} ({', '.join(usual)}). "
        f"Rename it, such as dataset.rename_column('...', {usual[0]!r}). {_FORMS}"
    )


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _image(values: Any, field: str) -> Image.Image:
    if isinstance(values, Image.Image):
        return values
    array = _array(values) if isinstance(values, np.ndarray | torch.Tensor | list) else np.empty(0)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise ValueError(f"its field {field!r} is {_described(values)}, not an image. {_FORMS}")
    if array.ndim == 3:
        bands = (1, 3, 4)
        # Of an image that is three pixels high or wide, tensors have the channels first, as torchvision has them.
        first = isinstance(values, torch.Tensor) or array.shape[-1] not in bands
        if array.shape[0] in bands and first:
            array = array.transpose(1, 2, 0)
        if array.shape[-1] not in bands:
            raise ValueError(f"its field {field!r} has the shape {array.shape}, not that of an image.")
        array = array[..., 0] if array.shape[-1] == 1 else array
    return Image.fromarray(np.ascontiguousarray(array))


def _mask(values: Any, field: str) -> Image.Image:
    if isinstance(values, Image.Image):
        return values
    array = _array(values) if isinstance(values, np.ndarray | torch.Tensor | list) else np.empty(0)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim != 2 or array.dtype.kind not in "biu":
        raise ValueError(f"its field {field!r} is {_described(values)}, not a mask of integers (H, W). {_FORMS}")
    if array.size and not -(2**31) <= array.min() <= array.max() < 2**31:
        raise ValueError(f"its field {field!r} holds {array.max()}, which is no class id.")
    small = array.dtype.kind == "b" or (array.min(initial=0) >= 0 and array.max(initial=0) <= 255)
    return Image.fromarray(np.ascontiguousarray(array.astype(np.uint8 if small else np.int32)))


def _described(values: Any) -> str:
    if isinstance(values, np.ndarray | torch.Tensor):
        return f"a {type(values).__name__} of {values.dtype} and shape {tuple(values.shape)}"
    return f"{values!r:.60} (a {type(values).__name__})"
