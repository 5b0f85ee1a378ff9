"""From logits to masks: bilinear resizing and argmax, for everyone who needs them, the losses on labels included.

The filter (bilinear, half-pixel centers) stands in two places: [`resize_logits`] computes it, and `_source_rows` gives
the same weights by row, for strips and for the quick path on CPUs. A change belongs in both.

The file is flat and imports nothing of kaseg, so that it can lie in a Hub repository beside the image processor.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# 64 MiB of float32: one strip for most images, and three for 19 classes at 1024x2048.
MAX_ELEMENTS = 2**24
# A mebibyte of float32, which stays in the cache of a core.
_CPU_ELEMENTS = 2**18


def require_no_nan(logits: Tensor) -> Tensor:
    """Returns the logits; a ValueError if they hold NaN, of which argmax would make the first class that has it."""
    if logits.isnan().any():
        raise ValueError(
            f"the logits hold NaN, so that no class can be told ({logits.dtype}). Give finite pixel values, and let a "
            "model that overflows in half precision compute in float32 (dtype=torch.float32, model.float())."
        )
    return logits


def resize_logits(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resizing (`align_corners=False`) of logits (B, num_labels, h, w) in float32 to (B, num_labels, height,
    width), at once and with gradients."""
    return F.interpolate(logits.float(), size=tuple(size), mode="bilinear", align_corners=False)


def resized_strips(logits: Tensor, size: tuple[int, int], max_elements: int) -> Iterator[tuple[slice, Tensor]]:
    """Bilinear resizing (`align_corners=False`) in strips of whole rows, from top to bottom: the same values as
    [`resize_logits`], exactly, where one strip is enough, and up to rounding otherwise.

    Args:
        logits: (B, num_labels, h, w).
        size: (height, width) of the result.
        max_elements: How many logits a strip may have (at least one row is done).

    Returns:
        An iterator over the rows of a strip and its logits, float32 (B, num_labels, rows, width).
    """
    height, width = size
    rows_in = logits.shape[-2]
    # With the classes of a pixel side by side, resizing and what follows over classes are quicker on a CPU.
    layout = torch.channels_last if logits.device.type == "cpu" else torch.contiguous_format
    rows_per_strip = max(1, max_elements // max(1, logits.shape[0] * logits.shape[1] * width))
    if rows_per_strip >= height:
        yield slice(0, height), resize_logits(logits.float().contiguous(memory_format=layout), size)
        return
    upper, weight = _source_rows(rows_in, height)
    lower = (upper + 1).clamp(max=rows_in - 1)
    weight = weight[:, None].to(logits.device)
    for start in range(0, height, rows_per_strip):
        strip = slice(start, start + rows_per_strip)
        above, below = logits[..., upper[strip], :].float(), logits[..., lower[strip], :].float()
        mixed = (above + (below - above) * weight[strip]).contiguous(memory_format=layout)
        yield strip, resize_logits(mixed, (mixed.shape[-2], width))


@torch.no_grad()
def argmax_resized(
    logits: Tensor, size: tuple[int, int], max_elements: int = MAX_ELEMENTS, dtype: torch.dtype = torch.int64
) -> Tensor:
    """Bilinear resizing (`align_corners=False`) and argmax, strip by strip.

    Args:
        logits: (B, num_labels, h, w).
        size: (height, width) of the mask.
        max_elements: How many resized logits may exist at once (at least one row is done; on a CPU two). On a CPU it is
            never more than fits its cache.
        dtype: Type of the class ids.

    Returns:
        Class ids (B, height, width), where the logits are; of equal logits the first class.
    """
    mask = torch.empty((logits.shape[0], *size), dtype=dtype, device=logits.device)
    if logits.device.type == "cpu" and logits.numel() and torch.isfinite(logits).all():
        _argmax_between_rows(logits, mask, min(max_elements, _CPU_ELEMENTS))
        return mask
    for strip, scores in resized_strips(logits, size, max_elements):
        mask[:, strip] = scores.argmax(dim=1).to(dtype)
    return mask


def _argmax_between_rows(logits: Tensor, mask: Tensor, max_elements: int) -> None:
    """Fills `mask` (B, height, width) from finite logits: their rows are first resized to its width, and then mixed,
    one pair of rows after the other, so that the scores stay in a CPU's cache and every step works on whole vectors.
    `max(dim=1)` would not: its search for the place of the maximum is not vectorized."""
    batch, classes, source_height, _ = logits.shape
    height, width = mask.shape[1:]
    sources, weights = _source_rows(source_height, height)
    above_of = sources.tolist()
    rows_at_once = max(1, max_elements // (batch * classes * width))
    weights = weights.view(1, 1, -1, 1)
    # The first class has the highest rank: of equal scores it wins.
    ranks = torch.arange(classes, 0, -1, dtype=torch.float32).view(1, -1, 1, 1)
    sources_at_once = max(1, rows_at_once - 1)
    for offset in range(0, source_height, sources_at_once):
        row, end = bisect_left(above_of, offset), bisect_left(above_of, offset + sources_at_once)
        if row == end:
            continue
        source = logits[:, :, offset : offset + sources_at_once + 1].float().contiguous()
        wide = resize_logits(source, (source.shape[2], width))
        while row < end:
            above = above_of[row]
            below = min(above + 1, source_height - 1)
            strip = slice(row, min(bisect_right(above_of, above), row + rows_at_once))
            weight = weights[:, :, strip]
            scores = wide[:, :, above - offset, None] * (1 - weight)
            scores.addcmul_(wide[:, :, below - offset, None], weight)
            # eq into float, as the comparison into bool is not vectorized.
            torch.eq(scores, scores.amax(1, keepdim=True), out=scores)
            mask[:, strip] = classes - scores.mul_(ranks).amax(1)
            row = strip.stop


def _source_rows(rows_in: int, height: int) -> tuple[Tensor, Tensor]:
    """For every row of the result the source row above it and the weight of the one below: half-pixel centers, clamped
    at the edges as `F.interpolate` does."""
    centers = (torch.arange(height, dtype=torch.float64) + 0.5) * rows_in / height - 0.5
    centers = centers.clamp(0, rows_in - 1)
    upper = centers.floor().long()
    return upper, (centers - upper).to(torch.float32)
