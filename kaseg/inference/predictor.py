"""Masks for pictures: in memory, or from files to files."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel

from kaseg.data.label_spaces import palette_for
from kaseg.evaluation.resizing import argmax_resized
from kaseg.image_processing_kaseg import to_rgb
from kaseg.inference.files import PathLike, plan_outputs, read_image, write_png
from kaseg.inference.overlay import Palette, add_legend, class_fractions, colorize, overlay
from kaseg.inference.tiling import tiled_logits

logger = logging.getLogger(__name__)

_MASK_SUFFIX = "_mask.png"
_OVERLAY_SUFFIX = "_overlay.png"


@dataclass(frozen=True)
class Prediction:
    """What became of one picture file.

    Attributes:
        path: The picture.
        mask_path: The mask, a palette PNG whose pixel values are class ids; `None` if the picture was skipped.
        overlay_path: The overlay; `None` if none was asked for or the picture was skipped.
        fractions: Class id -> share of the pixels in 0..1, largest first.
        error: Why the picture was skipped; `None` if it was not.
    """

    path: Path
    mask_path: Path | None = None
    overlay_path: Path | None = None
    fractions: dict[int, float] | None = None
    error: str | None = None


class Predictor:
    """Runs a segmentation model over pictures.

    Pictures are neither padded nor cropped, whatever the processor's settings, and only pictures of one size share a
    batch, so that a mask covers its whole picture and does not depend on the others. Pictures whose prepared input has
    more than `max_pixels` pixels are done in overlapping tiles, see [`~kaseg.inference.tiling.tiled_logits`], which is
    close to but not the same as one pass.

    Args:
        model: A [`KASegModel`] or any transformers semantic-segmentation model; it is put in eval mode and moved.
        processor: Its image processor, with `post_process_semantic_segmentation`.
        device: Where to run. Default: where the model is.
        batch_size: Pictures per batch at most.
        max_pixels: Largest input in pixels for one pass.
        tile: Height and width of a tile in pixels, a multiple of the model's stride.
        overlap: Overlap of neighbouring tiles in pixels.
        alpha: Weight of the colours in overlays, 0..1.

    Raises:
        ValueError: If `batch_size` or `max_pixels` is below 1, or `alpha` outside 0..1.

    Example:

    ```python
    >>> from PIL import Image
    >>> from kaseg import KASegConfig, KASegImageProcessor, KASegModel
    >>> from kaseg.inference import Predictor

    >>> predictor = Predictor(KASegModel(KASegConfig(output_stride=32)), KASegImageProcessor())
    >>> predictor.predict([Image.new("RGB", (97, 64))])[0].shape
    (64, 97)

    ```
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: Any,
        device: str | torch.device | None = None,
        batch_size: int = 1,
        max_pixels: int = 4_000_000,
        tile: int = 1024,
        overlap: int = 256,
        alpha: float = 0.5,
    ) -> None:
        if batch_size < 1 or max_pixels < 1:
            raise ValueError(f"batch_size and max_pixels must be at least 1, got {batch_size} and {max_pixels}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must lie in 0..1, got {alpha}")
        self.model = model.eval() if device is None else model.eval().to(device)
        self.processor = processor
        self.batch_size = batch_size
        self.max_pixels = max_pixels
        self.tile = tile
        self.overlap = overlap
        self.alpha = alpha

    @property
    def palette(self) -> Palette:
        """One colour per class: `config.palette`, or the PASCAL VOC colour map if the checkpoint has none."""
        config = self.model.config
        return getattr(config, "palette", None) or palette_for(config.num_labels)

    @torch.inference_mode()
    def predict(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
        """Segments pictures.

        Args:
            images: PIL images of any mode and size; EXIF orientation is applied.

        Returns:
            One mask (H, W) of class ids per picture, at the picture's upright size: uint8, or int32 if the model has
            more than 256 classes.
        """
        masks: dict[int, torch.Tensor] = {}
        waiting: dict[tuple[int, int], list[tuple[int, torch.Tensor, tuple[int, int]]]] = {}
        for index, image in enumerate(images):
            upright = to_rgb(image)
            size = (upright.height, upright.width)
            inputs = self.processor(upright, do_pad=False, do_center_crop=False, return_tensors="pt")
            prepared = inputs["pixel_values"]
            if prepared.shape[-2] * prepared.shape[-1] > self.max_pixels:
                logits = tiled_logits(self.model, prepared, self.tile, self.overlap)
                masks[index] = argmax_resized(logits, size)[0].cpu()
                continue
            batch = waiting.setdefault(tuple(prepared.shape[-2:]), [])
            batch.append((index, prepared, size))
            if len(batch) == self.batch_size:
                masks.update(self._predict_batch(batch))
                batch.clear()
        for batch in waiting.values():
            if batch:
                masks.update(self._predict_batch(batch))
        dtype = np.uint8 if self.model.config.num_labels <= 256 else np.int32
        return [masks[index].numpy().astype(dtype) for index in range(len(images))]

    def _predict_batch(self, batch: list[tuple[int, torch.Tensor, tuple[int, int]]]) -> dict[int, torch.Tensor]:
        indices, tensors, sizes = zip(*batch, strict=True)
        reference = next(self.model.parameters())
        outputs = self.model(pixel_values=torch.cat(tensors).to(reference.device, reference.dtype))
        masks = self.processor.post_process_semantic_segmentation(outputs, target_sizes=list(sizes))
        return {index: mask.cpu() for index, mask in zip(indices, masks, strict=True)}

    def predict_files(
        self,
        paths: PathLike | Iterable[PathLike],
        output_dir: PathLike,
        overlay: bool = True,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> Iterator[Prediction]:
        """Segments picture files and writes `<stem>_mask.png` and `<stem>_overlay.png` for each.

        The work is done as the iterator is consumed. Folders below the given ones are kept in `output_dir`; see
        [`~kaseg.inference.files.plan_outputs`] for pictures of one name. Files appear whole or not at all.

        Args:
            paths: Files and folders, see [`~kaseg.inference.files.iter_images`].
            output_dir: Where the results go; made if missing. If it lies in an input folder it is not searched.
            overlay: Also write the picture with the mask's colours over it and a legend of classes and their shares.
            on_error: What to do about a picture that cannot be read: `"raise"`, after all before it are written, or
                `"skip"`, which yields a [`Prediction`] with `error`, and warns in the end, naming the skipped files.

        Returns:
            An iterator over [`Prediction`], in the order of the pictures.

        Raises:
            FileNotFoundError: If a path does not exist or a folder holds no picture.
            ValueError: If `on_error` is neither, results would overwrite pictures, the model has more than 255 classes
                (a palette PNG cannot hold more beside void), or, with `on_error="raise"`, a picture cannot be read.
            OSError: If a result cannot be written; the message names it.
        """
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
        num_labels = self.model.config.num_labels
        if num_labels > 255:
            raise ValueError(f"palette PNG masks hold 255 classes, the model has {num_labels}: use predict() instead")
        suffixes = (_MASK_SUFFIX, _OVERLAY_SUFFIX) if overlay else (_MASK_SUFFIX,)
        return self._predict_files(plan_outputs(paths, output_dir, suffixes), overlay, on_error)

    def _predict_files(
        self, planned: list[tuple[Path, Path]], with_overlay: bool, on_error: str
    ) -> Iterator[Prediction]:
        skipped: list[str] = []
        for start in range(0, len(planned), self.batch_size):
            chunk = planned[start : start + self.batch_size]
            images: dict[Path, Image.Image] = {}
            errors: dict[Path, Exception] = {}
            for path, _ in chunk:
                try:
                    images[path] = read_image(path)
                except (OSError, ValueError) as error:
                    errors[path] = error
            masks = dict(zip(images, self._predict_named(images), strict=True))
            for path, output in chunk:
                if path in masks:
                    yield self._write(path, output, images[path], masks[path], with_overlay)
                elif on_error == "raise":
                    raise errors[path]
                else:
                    skipped.append(f"{path}: {errors[path]}")
                    yield Prediction(path, error=str(errors[path]))
        if skipped:
            names = "\n".join(skipped)
            logger.warning("%d of %d pictures could not be read, skipped:\n%s", len(skipped), len(planned), names)

    def _predict_named(self, images: dict[Path, Image.Image]) -> list[np.ndarray]:
        try:
            return self.predict(list(images.values()))
        except Exception as error:
            error.add_note(f"while predicting {', '.join(map(str, images))}")
            raise

    def _write(self, path: Path, output: Path, image: Image.Image, mask: np.ndarray, with_overlay: bool) -> Prediction:
        palette = self.palette
        fractions = class_fractions(mask)
        mask_path = output.with_name(output.name + _MASK_SUFFIX)
        write_png(colorize(mask, palette), mask_path)
        if not with_overlay:
            return Prediction(path, mask_path, None, fractions)
        overlay_path = output.with_name(output.name + _OVERLAY_SUFFIX)
        names = self.model.config.id2label
        write_png(add_legend(overlay(image, mask, palette, self.alpha), fractions, names, palette), overlay_path)
        return Prediction(path, mask_path, overlay_path, fractions)
