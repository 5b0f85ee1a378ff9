"""Prediction of images too large for one pass, by overlapping tiles."""

import math
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from kaseg.evaluation.sliding import average_windows
from kaseg.modeling_kaseg import align_to_image

MULTIPLE = 32  # the largest stride in use


class PreparedOnDemand:
    """An image (upright RGB) that is prepared window by window, and takes the place of its `pixel_values` in
    [`tiled_logits`]: the prepared image, 12 bytes per pixel, never exists as a whole. `prepare` makes (1, C, h, w) of a
    part of the image without changing its size."""

    def __init__(self, image: Image.Image, prepare: Callable[[Image.Image], torch.Tensor]) -> None:
        self.image = image
        self.prepare = prepare
        self.shape = (1, 3, image.height, image.width)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: tuple[Any, slice, slice]) -> torch.Tensor:
        (top, bottom, _), (left, right, _) = index[-2].indices(self.shape[-2]), index[-1].indices(self.shape[-1])
        return self.prepare(self.image.crop((left, top, right, bottom)))


@torch.inference_mode()
def tiled_logits(
    model: nn.Module, pixel_values: torch.Tensor | PreparedOnDemand, tile: int, overlap: int
) -> torch.Tensor:
    """Runs the model on overlapping tiles and averages the logits where tiles overlap.

    The result is laid out like the untiled one: float32 `(B, num_labels, ceil(H / s), ceil(W / s))` at the model's
    stride `s`, on its device, and equals it where one tile covers the image. Otherwise it differs, because a tile does
    not see beyond its edges and global pooling pools the tile; a larger `tile` brings it closer. Tiles start at
    multiples of the stride, so that their logits fall on one grid. Uniform averaging of logits is our choice. A model
    with `pad_to_stride` is given tiles that are padded already, and its logits are aligned to the image as a whole.

    Memory: one tile's activations, and the averaged logits, 4 * num_labels / s^2 bytes per pixel.

    Args:
        model: Gives an object with `logits` for `pixel_values`; should be in eval mode.
        pixel_values: (B, C, H, W), on any device; tiles are moved to the model's device and dtype one at a time. Or an
            image to be prepared tile by tile.
        tile: Height and width of a tile in pixels, a multiple of 32.
        overlap: By how many pixels neighboring tiles overlap at least, 0..tile - 1; rounded up to the stride.

    Raises:
        ValueError: `tile` is no multiple of 32 or `overlap` does not fit it, or the model's logits do not have
            ceil(pixels / stride) entries for one whole-numbered stride.
    """
    check_tile(tile, overlap)
    height, width = pixel_values.shape[-2:]
    if height <= tile and width <= tile:
        return _run(model, pixel_values[..., :tile, :tile])
    pads = bool(getattr(getattr(model, "config", None), "pad_to_stride", False))
    first = _run(model, pixel_values[..., :tile, :tile], pads)
    stride = tile // first.shape[-2] if height >= tile else tile // first.shape[-1]
    if tile % stride or overlap + stride > tile:
        raise ValueError(f"tile={tile} must be a multiple of the stride {stride}, and overlap={overlap} smaller by one")
    done = [first]  # the first tile again, which told the stride

    def predict(part: torch.Tensor) -> torch.Tensor:
        logits = done.pop() if done else _run(model, part, pads)
        expected = tuple(math.ceil(side / stride) for side in part.shape[-2:])
        logits = logits[..., : expected[0], : expected[1]] if pads else logits
        if logits.shape[-2:] != expected:
            raise ValueError(
                f"a tile of {tuple(part.shape[-2:])} pixels gave logits of {tuple(logits.shape[-2:])}, not "
                f"{expected} at stride {stride}: such a model cannot be tiled with tile={tile}"
            )
        return logits

    logits = average_windows(predict, pixel_values, (tile, tile), (overlap, overlap), step=stride)
    return align_to_image(logits, (height, width), stride) if pads else logits


def check_tile(tile: int, overlap: int) -> None:
    """Raises a ValueError unless `tile` is a multiple of 32 and `overlap` in 0..tile - 1."""
    if tile <= 0 or tile % MULTIPLE or not 0 <= overlap < tile:
        raise ValueError(
            f"tile must be a multiple of {MULTIPLE} and overlap be below it, got tile={tile}, overlap={overlap}"
        )


def _run(model: nn.Module, pixel_values: torch.Tensor, pads: bool = False) -> torch.Tensor:
    if pads:
        down, right = (-side % MULTIPLE for side in pixel_values.shape[-2:])
        pixel_values = F.pad(pixel_values, (0, right, 0, down))
    reference = next(model.parameters())
    return model(pixel_values=pixel_values.to(reference.device, reference.dtype)).logits.float()
