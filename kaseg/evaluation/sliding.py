"""Windows that slide over an image, and the mean of what a network says about each."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Size = tuple[int, int]


def window_starts(length: int, window: int, overlap: int, step: int = 1) -> list[int]:
    """Where windows along a side start: ascending multiples of `step` in pixels, overlapping by `overlap` or more.

    With `step=1` these are the windows of mmsegmentation's `slide_inference` (stride `window - overlap`): the last one
    is moved inward until it ends with the image. Else `window` is a multiple of `step`, the model's stride, `overlap`
    at most `window - step`, and the last window may be shorter by less than `step`. A side that is not longer than a
    window has one, at 0.
    """
    if length <= window:
        return [0]
    stride = (window - overlap) // step * step
    last = math.ceil((length - window) / step) * step
    return [*range(0, last, stride), last]


def average_windows(
    predict: Callable[[Tensor], Tensor],
    pixel_values: Any,
    window: Size,
    overlap: Size,
    step: int = 1,
    batch_size: int = 1,
) -> Tensor:
    """Runs `predict` on overlapping windows and averages the logits where windows overlap, all with equal weight.

    An image shorter than the window along a side has one window there, of the image's own length: nothing is padded.

    Args:
        predict: Takes pixels (N, C, h, w), gives logits (N, num_labels, ceil(h / step), ceil(w / step)).
        pixel_values: (B, C, H, W); a tensor, or what gives windows of itself when sliced, as a tensor does.
        window: Height and width of a window in pixels.
        overlap: By how many pixels neighboring windows overlap at least, vertically and horizontally.
        step: Pixels per logit, see [`window_starts`].
        batch_size: How many windows go through `predict` at once; above 1 only with `step=1`, where all are of one
            size.

    Returns:
        Logits (B, num_labels, ceil(H / step), ceil(W / step)), of the type and on the device of `predict`'s. Memory:
        these, one batch of windows and their activations.
    """
    height, width = pixel_values.shape[-2:]
    corners = [
        (top, left)
        for top in window_starts(height, window[0], overlap[0], step)
        for left in window_starts(width, window[1], overlap[1], step)
    ]
    total = count = None
    for first in range(0, len(corners), batch_size):
        chunk = corners[first : first + batch_size]
        parts = [pixel_values[..., top : top + window[0], left : left + window[1]] for top, left in chunk]
        logits = predict(torch.cat(parts))
        if total is None or count is None:
            grid = (math.ceil(height / step), math.ceil(width / step))
            total, count = logits.new_zeros((len(pixel_values), logits.shape[1], *grid)), logits.new_zeros(grid)
        rows, columns = logits.shape[-2:]
        for (top, left), scores in zip(chunk, logits.split(len(pixel_values)), strict=True):
            y, x = top // step, left // step
            total[..., y : y + rows, x : x + columns] += scores
            count[y : y + rows, x : x + columns] += 1
    assert total is not None and count is not None
    return total.div_(count)
