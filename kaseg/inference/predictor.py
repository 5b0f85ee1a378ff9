"""Masks for images: in memory, or from files to files."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from kaseg.best_effort import noting
from kaseg.configuration_kaseg import require_classes
from kaseg.data.label_spaces import palette_for
from kaseg.finite import require_finite
from kaseg.image_processing_kaseg import KASegImageProcessor, pixel_values_of
from kaseg.inference.files import PathLike, plan_outputs, read_image, write_image
from kaseg.inference.ordered_map import ordered_map
from kaseg.inference.overlay import Palette, add_legend, class_fractions, colorize, overlay
from kaseg.inference.tiling import PreparedOnDemand, check_tile, tiled_logits
from kaseg.masks import argmax_resized, require_no_nan
from kaseg.modeling_kaseg import KASegModel
from kaseg.pixels import to_rgb

logger = logging.getLogger(__name__)

_MASK_SUFFIX = "_mask.png"
# Far faster than Pillow's default of 6, for files that are somewhat larger.
_MASK_OPTIONS = {"compress_level": 3}
# A PNG of a photograph takes far longer than a JPEG; the mask is what must be lossless.
_OVERLAY_SUFFIX = "_overlay.jpg"
_OVERLAY_OPTIONS = {"quality": 90}
# Overlays are there to be looked at; those of larger images are reduced to this long edge.
_LONGEST_OVERLAY = 8192
_MOST_WORKERS = 8


@dataclass(frozen=True)
class Prediction:
    """What became of one image file; all but `path` and `error` is `None` if it was skipped.

    Attributes:
        path: The image.
        mask_path: The mask, a palette PNG whose pixel values are class ids.
        overlay_path: The overlay; `None` also if none was asked for.
        fractions: Class id -> share of the pixels in 0..1, largest first.
        error: Why the image was skipped; `None` if it was not.
    """

    path: Path
    mask_path: Path | None = None
    overlay_path: Path | None = None
    fractions: dict[int, float] | None = None
    error: str | None = None


class Predictor:
    """Runs a segmentation model over images.

    Images are neither padded nor cropped, whatever the processor's settings, and only images of one size share a
    batch, so that a mask covers its whole image and does not depend on the others. Images whose prepared input has
    more than `max_pixels` pixels are done in overlapping tiles, see [`~kaseg.inference.tiling.tiled_logits`], which is
    close to but not the same as one pass; they are also prepared tile by tile, unless the processor resizes.

    Give it [`~kaseg.inference.deployed`]`(model)` for speed: the predictor itself leaves the model's weights alone.

    Args:
        model: A [`KASegModel`], an exported one, or any transformers semantic-segmentation model; it is put in eval
            mode and moved.
        processor: Its image processor, with `post_process_semantic_segmentation`.
        device: Where to run. Default: where the model is.
        batch_size: Images per batch at most.
        max_pixels: Largest input in pixels for one pass.
        tile: Height and width of a tile in pixels, a multiple of 32.
        overlap: Overlap of neighboring tiles in pixels, below `tile`.
        alpha: Weight of the colors in overlays, 0..1.

    Raises:
        ValueError: If `batch_size` or `max_pixels` is below 1, `alpha` outside 0..1, `tile` or `overlap` impossible, or
            the model is one of other than RGB images or of one class, or holds NaN or infinite numbers.

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
        model: Any,
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
        check_tile(tile, overlap)
        require_classes(model.config, type(model).__name__)
        require_finite(model, f"The model ({type(model).__name__})")
        channels = getattr(model.config, "num_channels", 3)
        if channels != 3:
            raise ValueError(f"the model takes images of {channels} channels, a Predictor gives it RGB: call the model")
        self.model = model.eval() if device is None else model.eval().to(device)
        self.processor = processor
        self.batch_size = batch_size
        self.max_pixels = max_pixels
        self.tile = tile
        self.overlap = overlap
        self.alpha = alpha
        on_cpu = next(self.model.parameters()).device.type == "cpu"
        self._threads = torch.get_num_threads()
        # Images side by side with one thread each use a CPU better than one image with all threads. Other models
        # and runtimes do not say whether several threads may call them at once, and a GPU has memory for one batch.
        self._divides_threads = on_cpu and isinstance(self.model, KASegModel)
        self._turn: Any = nullcontext() if self._divides_threads else Lock()
        self._large_turn = Lock()

    @property
    def palette(self) -> Palette:
        """One color per class: `config.palette`, or the PASCAL VOC color map if the checkpoint has none."""
        config = self.model.config
        return getattr(config, "palette", None) or palette_for(config.num_labels)

    def predict(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
        """Segments PIL images of any mode and size; EXIF orientation is applied.

        Returns:
            One mask (H, W) of class ids per image, at the image's upright size: uint8, or int32 if the model has more
            than 256 classes.
        """
        return self._predict(map(self._prepare, images))

    def _prepare(self, image: Image.Image) -> tuple[Any, tuple[int, int]]:
        """What the model sees of an image, and the size of its mask; a ValueError for an image that it cannot take."""
        upright = to_rgb(image)
        size = (upright.height, upright.width)
        prepare = partial(pixel_values_of, self.processor)
        if size[0] * size[1] > self.max_pixels and not getattr(self.processor, "do_resize", True):
            return PreparedOnDemand(upright, prepare), size
        return prepare(upright), size

    @torch.inference_mode()
    def _predict(self, images: Iterable[tuple[Any, tuple[int, int]]]) -> list[np.ndarray]:
        masks: dict[int, np.ndarray] = {}
        waiting: dict[tuple[int, int], list[tuple[int, torch.Tensor, tuple[int, int]]]] = {}
        for index, (prepared, size) in enumerate(images):
            if prepared.shape[-2] * prepared.shape[-1] > self.max_pixels:
                with self._turn:
                    logits = tiled_logits(self.model, prepared, self.tile, self.overlap)
                masks[index] = self._mask(logits, size)
                continue
            batch = waiting.setdefault((prepared.shape[-2], prepared.shape[-1]), [])
            batch.append((index, prepared, size))
            if len(batch) == self.batch_size:
                masks.update(self._predict_batch(batch))
                batch.clear()
        for batch in waiting.values():
            if batch:
                masks.update(self._predict_batch(batch))
        return [mask for _, mask in sorted(masks.items())]

    def _predict_batch(self, batch: list[tuple[int, torch.Tensor, tuple[int, int]]]) -> dict[int, np.ndarray]:
        indices, tensors, sizes = zip(*batch, strict=True)
        reference = next(self.model.parameters())
        pixel_values = torch.cat(tensors).to(reference.device, reference.dtype)
        with self._turn:
            outputs = self.model(pixel_values=pixel_values)
        if isinstance(self.processor, KASegImageProcessor):
            logits = outputs.logits.split(1)
            return {index: self._mask(*item) for index, *item in zip(indices, logits, sizes, strict=True)}
        masks = self.processor.post_process_semantic_segmentation(outputs, target_sizes=list(sizes))
        return {index: mask.cpu().numpy().astype(self._dtype) for index, mask in zip(indices, masks, strict=True)}

    @property
    def _dtype(self) -> type[np.integer]:
        return np.uint8 if self.model.config.num_labels <= 256 else np.int32

    def _mask(self, logits: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
        """What `KASegImageProcessor.post_process_semantic_segmentation` gives, in small integers."""
        dtype = torch.uint8 if self._dtype is np.uint8 else torch.int32
        return argmax_resized(require_no_nan(logits), size, dtype=dtype)[0].cpu().numpy()

    def predict_files(
        self,
        paths: PathLike | Iterable[PathLike],
        output_dir: PathLike,
        overlay: bool = True,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> Iterator[Prediction]:
        """Segments image files and writes `<stem>_mask.png` and `<stem>_overlay.jpg` for each.

        The work is done as the iterator is consumed, on several images at once (at most eight batches, and never two
        that are large enough for tiles), so that reading and writing do not wait for the model; memory does not grow
        with the number of images. On a CPU the threads of torch are divided among the images. Folders below the given
        ones are kept in `output_dir`; see [`~kaseg.inference.files.plan_outputs`] for images of one name. Files appear
        whole or not at all.

        Args:
            paths: Files and folders, see [`~kaseg.inference.files.iter_images`].
            output_dir: Where the results go; made if missing. If it lies in an input folder it is not searched.
            overlay: Also write the image with the mask's colors over it and a legend of classes and their shares;
                of images above 8192 pixels in width or height a reduced one.
            on_error: What to do about an image that cannot be read: `"raise"`, after all before it are written (some
                of those after it may be, too), or `"skip"`, which yields a [`Prediction`] with `error`, and warns in
                the end, naming the skipped files.

        Returns:
            An iterator over [`Prediction`], in the order of the images.

        Raises:
            FileNotFoundError: A path does not exist or a folder holds no image.
            ValueError: `on_error` is neither, results would overwrite images, the model has more than 255 classes (a
                palette PNG cannot hold more beside void), or, with `on_error="raise"`, an image cannot be read.
            OSError: A result cannot be written; the message names it.
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
        chunks = [planned[start : start + self.batch_size] for start in range(0, len(planned), self.batch_size)]
        with self.workers(len(chunks)) as (count, initializer):
            for results in ordered_map(partial(self._finish, with_overlay), chunks, count, initializer):
                for prediction, error in results:
                    if error is not None and on_error == "raise":
                        raise error
                    if error is not None:
                        skipped.append(f"{prediction.path}: {error}")
                    yield prediction
        if skipped:
            names = "\n".join(skipped)
            logger.warning("%d of %d images could not be read, skipped:\n%s", len(skipped), len(planned), names)

    @contextmanager
    def workers(self, tasks: int) -> Iterator[tuple[int, Callable[[], None]]]:
        """How many threads should make `tasks` calls of [`predict`], and what each has to call first."""
        most = self._threads if self._divides_threads else os.cpu_count() or 1
        count = max(1, min(most, _MOST_WORKERS, tasks))
        before = torch.get_num_threads()
        threads = max(1, self._threads // count) if self._divides_threads else self._threads
        try:
            yield count, partial(torch.set_num_threads, threads)
        finally:
            torch.set_num_threads(before)  # what a worker sets becomes the default of new threads

    def _finish(self, with_overlay: bool, chunk: list[tuple[Path, Path]]) -> list[tuple[Prediction, Exception | None]]:
        """Reads, predicts and writes images, in a worker thread."""
        if any(self._is_large(path) for path, _ in chunk):
            # One at a time, with all threads: several would be too much for the memory.
            with self._large_turn:
                before = torch.get_num_threads()
                torch.set_num_threads(self._threads)
                try:
                    return [self._finish_batch(with_overlay, [item])[0] for item in chunk]
                finally:
                    torch.set_num_threads(before)
        return self._finish_batch(with_overlay, chunk)

    def _is_large(self, path: Path) -> bool:
        try:
            with Image.open(path) as image:
                return image.width * image.height > self.max_pixels
        except Exception:  # whatever Pillow runs into; reading says it better
            return False

    def _finish_batch(
        self, with_overlay: bool, chunk: list[tuple[Path, Path]]
    ) -> list[tuple[Prediction, Exception | None]]:
        images: dict[Path, Image.Image] = {}
        prepared: dict[Path, tuple[Any, tuple[int, int]]] = {}
        errors: dict[Path, Exception] = {}
        for path, _ in chunk:
            try:
                image = read_image(path)
                prepared[path] = self._prepare(image)
                images[path] = image
            except (OSError, ValueError) as error:
                if str(path) not in str(error):
                    error.add_note(f"while preparing {path}")
                errors[path] = error
        try:
            masks = dict(zip(images, self._predict(prepared.values()), strict=True))
        except Exception as error:
            error.add_note(f"while predicting {', '.join(map(str, images))}")
            raise
        return [
            (Prediction(path, error=str(errors[path])), errors[path])
            if path in errors
            else (self._write(path, output, images[path], masks[path], with_overlay), None)
            for path, output in chunk
        ]

    def _write(self, path: Path, output: Path, image: Image.Image, mask: np.ndarray, with_overlay: bool) -> Prediction:
        palette = self.palette
        fractions = class_fractions(mask)
        mask_path = output.with_name(output.name + _MASK_SUFFIX)
        write_image(colorize(mask, palette), mask_path, **_MASK_OPTIONS)
        if not with_overlay:
            return Prediction(path, mask_path, None, fractions)
        overlay_path = output.with_name(output.name + _OVERLAY_SUFFIX)
        with noting(f"The mask is written: {mask_path}."):
            image, mask = _reduced(image, mask)
            drawn = add_legend(
                overlay(image, mask, palette, self.alpha), fractions, self.model.config.id2label, palette
            )
            write_image(drawn, overlay_path, **_OVERLAY_OPTIONS)
        return Prediction(path, mask_path, overlay_path, fractions)


def _reduced(image: Image.Image, mask: np.ndarray) -> tuple[Image.Image, np.ndarray]:
    """Image and mask at a size to look at."""
    scale = _LONGEST_OVERLAY / max(image.size)
    if scale >= 1:
        return image, mask
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    return small, np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
