"""Logits at the labels' resolution, strip by strip, so that those of a whole picture need not exist at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

# 64 MiB of float32: one strip for most pictures, and three for 19 classes at 1024x2048.
MAX_ELEMENTS = 2**24


def resized_strips(logits: Tensor, size: tuple[int, int], max_elements: int) -> Iterator[tuple[slice, Tensor]]:
    """Bilinear resizing (`align_corners=False`) in strips of whole rows, from top to bottom.

    The same values as `F.interpolate(logits.float(), size, mode="bilinear")`: exactly, where one strip is enough, and
    up to rounding otherwise.

    Args:
        logits: (B, num_labels, h, w).
        size: (height, width) of the result.
        max_elements: How many logits a strip may have (at least one row is done).

    Returns:
        An iterator over the rows of a strip and its logits, float32 (B, num_labels, rows, width).
    """
    height, width = size
    rows_in = logits.shape[-2]
    # With the classes of a pixel side by side, resizing and the maximum over classes are quicker on a CPU.
    layout = torch.channels_last if logits.device.type == "cpu" else torch.contiguous_format
    rows_per_strip = max(1, max_elements // (logits.shape[0] * logits.shape[1] * width))
    if rows_per_strip >= height:
        logits = logits.float().contiguous(memory_format=layout)
        yield slice(0, height), F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return
    # Source rows of every output row: half-pixel centres, clamped at the edges as F.interpolate does.
    centres = (torch.arange(height, dtype=torch.float64) + 0.5) * rows_in / height - 0.5
    centres = centres.clamp(0, rows_in - 1)
    upper = centres.floor().long()
    lower = (upper + 1).clamp(max=rows_in - 1)
    weight = (centres - upper).to(torch.float32)[:, None].to(logits.device)
    for start in range(0, height, rows_per_strip):
        strip = slice(start, start + rows_per_strip)
        above, below = logits[..., upper[strip], :].float(), logits[..., lower[strip], :].float()
        mixed = (above + (below - above) * weight[strip]).contiguous(memory_format=layout)
        wide = F.interpolate(mixed, size=(mixed.shape[-2], width), mode="bilinear", align_corners=False)
        yield strip, wide


def argmax_resized(logits: Tensor, size: tuple[int, int], max_elements: int = MAX_ELEMENTS) -> Tensor:
    """Bilinear resizing (`align_corners=False`) and argmax, strip by strip.

    Args:
        logits: (B, num_labels, h, w).
        size: (height, width) of the mask.
        max_elements: How many resized logits may exist at once (at least one row is done).

    Returns:
        int64 class ids (B, height, width), where the logits are; of equal logits the first class.
    """
    mask = torch.empty((logits.shape[0], *size), dtype=torch.int64, device=logits.device)
    for strip, scores in resized_strips(logits, size, max_elements):
        # max, because argmax over a dimension that is not the last is slow on a CPU.
        mask[:, strip] = scores.max(dim=1).indices
    return mask
