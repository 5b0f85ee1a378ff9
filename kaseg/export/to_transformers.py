"""Folders that transformers loads by itself: no kaseg, no timm, no remote code."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.Image import Resampling
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, SegformerImageProcessor
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from kaseg.export.options import ExportOptions
from kaseg.export.parity import ParityError
from kaseg.modeling_kaseg import KASegModel


def write_transformers(model: KASegModel, image_processor: Any, folder: Path, options: ExportOptions) -> list[str]:
    """Write `config.json`, `model.safetensors` and `preprocessor_config.json` of transformers' own classes; returns the
    names of the files with weights. A ValueError if transformers has no such network, or no image processor that does
    what ours does."""
    _check_padding(model, options)
    # First, lest a processor is refused after the weights are written.
    processor = plain_processor(image_processor, options.size)
    model.to_transformers().save_pretrained(folder)
    processor.save_pretrained(folder)
    # safetensors leaves its file to its owner alone; a server often runs as another user.
    (folder / SAFE_WEIGHTS_NAME).chmod((folder / CONFIG_NAME).stat().st_mode & 0o777)
    return [SAFE_WEIGHTS_NAME]


def load_transformers(folder: Path) -> Any:
    """The folder's network as transformers loads it, a function from `pixel_values` to logits."""
    network = AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
    return lambda pixel_values: network(pixel_values=pixel_values).logits


def plain_processor(image_processor: Any, size: tuple[int, int] | None = None) -> SegformerImageProcessor:
    """The image processor of transformers that does what ours does; a ValueError if ours pads or crops.

    It is SegFormer's: MobileNetV2's own does the same in Python, but transformers.js makes no masks with it. With
    `size` it resizes every image to (height, width) by Lanczos' filter (torchvision below 0.27: bicubic); bilinear
    resizing blurs, which costs mean IoU (docs/deploy.md).
    """
    for what in ("do_center_crop", "do_pad"):
        if getattr(image_processor, what, False):
            raise ValueError(
                f"The image processor has {what}=True, which transformers' image processors for semantic segmentation "
                f"do not undo in their masks: save it with {what}=False."
            )
    kept = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "do_convert_rgb")
    resizing = _resizing(size) or {name: getattr(image_processor, name) for name in ("do_resize", "resample", "size")}
    if resizing["size"] is None:
        del resizing["size"]
    return SegformerImageProcessor(**resizing, **{name: getattr(image_processor, name) for name in kept})


def _resizing(size: tuple[int, int] | None) -> dict[str, Any]:
    """An image processor's arguments for resizing to (height, width); none without a size."""
    if size is None:
        return {}
    return {"do_resize": True, "resample": Resampling.LANCZOS, "size": {"height": size[0], "width": size[1]}}


def check_processor(folder: Path, image_processor: Any, pictures: list[Image.Image], options: ExportOptions) -> None:
    """Raises a ParityError if the folder's image processor makes other pixel values than ours."""
    theirs = AutoImageProcessor.from_pretrained(folder)
    for picture in pictures:
        expected = image_processor(picture, return_tensors="pt", **_resizing(options.size))["pixel_values"]
        found = theirs(picture, return_tensors="pt")["pixel_values"]
        if found.shape != expected.shape or not torch.allclose(found, expected, rtol=0, atol=1e-5):
            raise ParityError(
                f"{type(theirs).__name__} does not prepare images as {type(image_processor).__name__} does. Nothing "
                "was kept."
            )


def _check_padding(model: KASegModel, options: ExportOptions) -> None:
    """Raises a ValueError where images would need a padding that transformers has not."""
    if not model.config.pad_to_stride:
        return
    stride = model.config.output_stride
    if options.size is None or any(side % stride for side in options.size):
        raise ValueError(
            f"The model pads images to multiples of its stride {stride} and cuts its logits to the image "
            "(pad_to_stride=True); transformers does neither, and its masks would be shifted by up to a stride. Give "
            f"a size of such multiples, near that of your images, for the image processor to resize them to (--size "
            f"HEIGHT,WIDTH{'' if options.size is None else f', not {options.size[0]},{options.size[1]}'})."
        )
