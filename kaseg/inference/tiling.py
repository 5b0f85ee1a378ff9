"""Prediction of pictures too large for one pass: overlapping tiles, and an argmax that never holds all logits."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F


@torch.inference_mode()
def tiled_logits(model: nn.Module, pixel_values: torch.Tensor, tile: int, overlap: int) -> torch.Tensor:
    """Runs the model on overlapping tiles and averages the logits where tiles overlap.

    The result is laid out like the untiled one: `(B, num_labels, ceil(H / s), ceil(W / s))` at the model's stride `s`,
    and equals it where one tile covers the picture. Otherwise it differs, because a tile does not see beyond its edges
    and global pooling pools the tile; a larger `tile` brings it closer. Tiles start at multiples of the stride, so that
    their logits fall on one grid. Uniform averaging of logits is our choice.

    Memory: one tile's activations, and the averaged logits, 4 * num_labels / s^2 bytes per pixel.

    Args:
        model: Gives an object with `logits` for `pixel_values`; should be in eval mode.
        pixel_values: (B, C, H, W), on any device; tiles are moved to the model's device and dtype one at a time.
        tile: Height and width of a tile in pixels, a multiple of 32 (the largest stride in use).
        overlap: By how many pixels neighbouring tiles overlap at least, 0..tile - 1; rounded up to the stride.

    Returns:
        float32 logits on the model's device.

    Raises:
        ValueError: If `tile` is no multiple of 32 or `overlap` does not fit it, or the model's logits do not have
            ceil(pixels / stride) entries for one whole-numbered stride.
    """
    if tile <= 0 or tile % 32 or not 0 <= overlap < tile:
        raise ValueError(f"tile must be a multiple of 32 and overlap be below it, got tile={tile}, overlap={overlap}")
    height, width = pixel_values.shape[-2:]
    first = _run(model, pixel_values[..., :tile, :tile])
    if height <= tile and width <= tile:
        return first
    stride = tile // first.shape[-2] if height >= tile else tile // first.shape[-1]
    if tile % stride or overlap + stride > tile:
        raise ValueError(f"tile={tile} must be a multiple of the stride {stride}, and overlap={overlap} smaller by one")
    rows, columns = math.ceil(height / stride), math.ceil(width / stride)
    total = first.new_zeros((*first.shape[:2], rows, columns))
    count = first.new_zeros((rows, columns))
    for top in tile_starts(height, tile, overlap, stride):
        for left in tile_starts(width, tile, overlap, stride):
            at_origin = top == left == 0
            part = pixel_values[..., top : top + tile, left : left + tile]
            logits = first if at_origin else _run(model, part)
            expected = tuple(math.ceil(side / stride) for side in part.shape[-2:])
            if logits.shape[-2:] != expected:
                raise ValueError(
                    f"a tile of {tuple(part.shape[-2:])} pixels gave logits of {tuple(logits.shape[-2:])}, not "
                    f"{expected} at stride {stride}: such a model cannot be tiled with tile={tile}"
                )
            y, x = top // stride, left // stride
            total[..., y : y + expected[0], x : x + expected[1]] += logits
            count[y : y + expected[0], x : x + expected[1]] += 1
    return total / count


def tile_starts(length: int, tile: int, overlap: int, stride: int) -> list[int]:
    """Where the tiles along one side start, in pixels: multiples of `stride`, overlapping by `overlap` or more.

    Args:
        length: Length of the side.
        tile: Length of a tile, a multiple of `stride`. The last tile may be shorter by less than `stride`.
        overlap: Least overlap, at most `tile - stride`.
        stride: The model's stride.
    """
    if length <= tile:
        return [0]
    step = (tile - overlap) // stride * stride
    last = math.ceil((length - tile) / stride) * stride
    return [*range(0, last, step), last]


def argmax_resized(logits: torch.Tensor, size: tuple[int, int], max_elements: int = 2**26) -> torch.Tensor:
    """Bilinear resizing (`align_corners=False`) and argmax, strip by strip.

    The same mask as `F.interpolate(logits, size, mode="bilinear").argmax(1)` up to rounding, without ever holding the
    resized logits of the whole picture.

    Args:
        logits: (B, num_labels, h, w).
        size: (height, width) of the mask.
        max_elements: How many resized logits a strip may have (at least one row is done).

    Returns:
        int64 class ids (B, height, width) on the CPU.
    """
    height, width = size
    rows_in = logits.shape[-2]
    rows_per_strip = max(1, max_elements // (logits.shape[0] * logits.shape[1] * width))
    mask = torch.empty((logits.shape[0], height, width), dtype=torch.int64)
    # Source rows of every output row: half-pixel centres, clamped at the edges as F.interpolate does.
    centres = (torch.arange(height, dtype=torch.float64) + 0.5) * rows_in / height - 0.5
    centres = centres.clamp(0, rows_in - 1)
    upper = centres.floor().long()
    lower = (upper + 1).clamp(max=rows_in - 1)
    weight = (centres - upper).to(torch.float32)[:, None].to(logits.device)
    for start in range(0, height, rows_per_strip):
        strip = slice(start, start + rows_per_strip)
        above, below = logits[..., upper[strip], :].float(), logits[..., lower[strip], :].float()
        mixed = above + (below - above) * weight[strip]
        wide = F.interpolate(mixed, size=(mixed.shape[-2], width), mode="bilinear", align_corners=False)
        mask[:, strip] = wide.argmax(dim=1).cpu()
    return mask


def _run(model: nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
    reference = next(model.parameters())
    return model(pixel_values=pixel_values.to(reference.device, reference.dtype)).logits.float()
