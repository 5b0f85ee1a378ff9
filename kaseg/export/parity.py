"""Whether an exported file computes what the model computes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from kaseg.export.options import ExportOptions

# Ours. Largest relative error of the logits (root of the mean square), least agreement of the masks. Rounding is all
# that may differ in float32. In bf16 PyTorch itself is 0.055 (autocast) to 0.07 away from float32 on the shipped plain
# student. int8 is judged by its mean IoU as well. transformers runs the very same operations.
TOLERANCES = {"float32": (1e-3, 0.999), "float16": (0.02, 0.99), "bf16": (0.1, 0.95), "int8": (0.5, 0.7)}
_SAME_OPERATIONS = (1e-4, 0.999)
# The first is a multiple of every stride, the second of none.
DEFAULT_SIZES = ((256, 320), (257, 319))


class ParityError(ValueError):
    """An exported file does not compute what the model computes; nothing was kept of it."""


@dataclass(frozen=True)
class Parity:
    """How well outputs agree for one batch.

    Attributes:
        dtype, size, batch: What the file computes in, (height, width) of the images, and how many they are.
        max_error: Largest absolute difference of logits; `None` where the graph gives masks.
        relative_error: Root mean square of the differences over that of the logits; `None` for masks.
        mask_agreement: Share of the pixels (logits, where there are some) with the same class, 0..1.
    """

    dtype: str
    size: tuple[int, int]
    batch: int
    max_error: float | None
    relative_error: float | None
    mask_agreement: float


def check_parity(
    reference: Callable[[torch.Tensor], torch.Tensor],
    run: Callable[[np.ndarray], np.ndarray],
    batches: Iterator[np.ndarray] | Sequence[np.ndarray],
    options: ExportOptions,
    dtype: str | None = None,
) -> list[Parity]:
    """Compare an exported file, `run`, with what it has to compute, `reference` in float32, on inputs of the graph;
    `dtype` is what this file computes in, if that is not `options.dtype`.

    Raises:
        ParityError: the outputs differ in shape or type or by more than [`TOLERANCES`] allow.
    """
    dtype = dtype or options.dtype
    tolerances = _SAME_OPERATIONS if options.format == "transformers" else TOLERANCES[dtype]
    results = []
    for inputs in batches:
        with torch.inference_mode():
            expected = reference(torch.from_numpy(inputs)).numpy()
        parity = _compare(expected, run(inputs), inputs.shape, options.output, dtype)
        _judge(parity, tolerances)
        results.append(parity)
    return results


def parity_batches(
    pictures: Sequence[Image.Image],
    image_processor: Any,
    options: ExportOptions,
    sizes: Sequence[tuple[int, int]] = DEFAULT_SIZES,
) -> Iterator[np.ndarray]:
    """Inputs to compare with: batches of two and of one of two RGB pictures, resized to the `sizes` (height, width) in
    turn; a fixed input is given the two one after the other."""
    for (height, width), places in _groups(options, sizes):
        group = [pictures[place % len(pictures)] for place in places]
        resized = [picture.resize((width, height), Image.Resampling.BILINEAR) for picture in group]
        yield graph_inputs(resized, image_processor, options)


def noise_batches(
    channels: int, options: ExportOptions, sizes: Sequence[tuple[int, int]] = DEFAULT_SIZES
) -> Iterator[np.ndarray]:
    """As [`parity_batches`], of normal noise (B, channels, H, W), the same every time, for images that are not RGB."""
    noise = np.random.default_rng(0)
    for (height, width), places in _groups(options, sizes):
        yield noise.standard_normal((len(places), channels, height, width), dtype=np.float32)


def _groups(options: ExportOptions, sizes: Sequence[tuple[int, int]]) -> list[tuple[tuple[int, int], tuple[int, ...]]]:
    """(height, width) of each batch, and which of two pictures are in it."""
    if options.size is not None:
        return [(options.size, (0,)), (options.size, (1,))]
    return [(size, (0, 1) if place % 2 == 0 else (0,)) for place, size in enumerate(sizes)]


def graph_inputs(
    images: Sequence[Image.Image], image_processor: Any, options: ExportOptions, do_resize: bool = False
) -> np.ndarray:
    """RGB pictures of one size as the graph takes them: `pixel_values` or `image`."""
    if options.output == "mask":
        return np.stack([np.asarray(image) for image in images]).astype(options.image_dtype)
    how = {"do_resize": do_resize, "do_pad": False, "do_center_crop": False}
    prepared = image_processor(list(images), **how, return_tensors="pt")
    return prepared["pixel_values"].numpy()


def _compare(expected: np.ndarray, found: np.ndarray, shape: tuple[int, ...], output: str, dtype: str) -> Parity:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise ParityError(
            f"For an input of shape {shape} the exported file gives {found.dtype} of shape {found.shape}, the model "
            f"{expected.dtype} of shape {expected.shape}. Nothing was kept."
        )
    if output == "mask":
        size = (shape[1], shape[2])
        return Parity(dtype, size, shape[0], None, None, float((expected == found).mean()))
    size = (shape[2], shape[3])
    difference = found.astype(np.float64) - expected
    scale = max(float(np.sqrt(np.square(expected, dtype=np.float64).mean())), 1e-30)
    return Parity(
        dtype,
        size,
        shape[0],
        max_error=float(np.abs(difference).max()),
        relative_error=float(np.sqrt(np.square(difference).mean())) / scale,
        mask_agreement=float((expected.argmax(1) == found.argmax(1)).mean()),
    )


def _judge(parity: Parity, tolerances: tuple[float, float]) -> None:
    most, least = tolerances
    where = f"{parity.batch} image{'s' if parity.batch > 1 else ''} of {parity.size[0]}x{parity.size[1]}"
    # NaN agrees with nothing.
    if parity.relative_error is None:
        agrees = parity.mask_agreement >= least
        found = f"only {100 * parity.mask_agreement:.2f} % of the pixels have the model's class, required are"
        limit = f"{100 * least:g} %"
    else:
        agrees = parity.relative_error <= most
        found = f"the logits differ by {parity.relative_error:.2g} of their size (root mean square), allowed are"
        limit = f"{most:g}"
    if not agrees:
        raise ParityError(
            f"The exported file does not compute what the model computes: on {where} {found} {limit} for "
            f"{parity.dtype}. Nothing was kept."
        )
