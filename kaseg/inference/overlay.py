"""Images of masks: colors, overlays and legends."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from kaseg.pixels import VOID, to_rgb

Palette = Sequence[Sequence[int]]

# Entry 255 of the PASCAL VOC color map (Everingham et al. 2010), which draws void pixels in this color.
VOID_COLOR = (224, 224, 192)

_MARGIN = 8
_MIN_FONT_SIZE = 12


def colorize(mask: np.ndarray, palette: Palette) -> Image.Image:
    """Makes a palette image (mode `P`) of a mask: pixel values are the class ids, the palette only colors them.

    Saved as PNG it is both an image and a lossless mask: `numpy.array(Image.open(path))` gives the ids back.

    Args:
        mask: Class ids (H, W), integers; 255 is void.
        palette: One (red, green, blue) in 0..255 per class, at most 256 classes.

    Raises:
        ValueError: The mask is not two-dimensional or holds an id without a color.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype.kind not in "iu":
        raise ValueError(f"a mask must be integers (H, W), got {mask.dtype} of shape {mask.shape}")
    if len(palette) > 256:
        raise ValueError(f"a palette image has 256 colors, this palette has {len(palette)}")
    colors = np.zeros((256, 3), dtype=np.uint8)
    colors[VOID] = VOID_COLOR
    colors[: len(palette)] = np.asarray(palette)
    uncolored = (mask < 0) | ((mask >= len(palette)) & (mask != VOID))
    if uncolored.any():
        raise ValueError(
            f"the mask holds class ids {np.unique(mask[uncolored])[:5].tolist()}, the palette has {len(palette)} colors"
        )
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette(colors.tobytes())
    return image


def overlay(image: Image.Image, mask: np.ndarray, palette: Palette, alpha: float = 0.5) -> Image.Image:
    """Lays the colors of a mask over an image: (1 - alpha) * image + alpha * color, mode `RGB`.

    Args:
        image: Any mode that PIL converts to RGB.
        mask: Class ids (H, W), of the image's size.
        palette: One (red, green, blue) per class.
        alpha: Weight of the colors, 0..1.

    Raises:
        ValueError: The sizes differ, or as for [`colorize`].
    """
    mask = np.asarray(mask)
    if mask.shape != (image.height, image.width):
        raise ValueError(f"the mask has (height, width) {mask.shape}, the image {(image.height, image.width)}")
    return Image.blend(to_rgb(image), colorize(mask, palette).convert("RGB"), alpha)


def class_fractions(mask: np.ndarray) -> dict[int, float]:
    """The share of the pixels in 0..1 by class id, void left out of both, largest first, of a mask (H, W)."""
    # Neither numpy.unique, which sorts, nor numpy.bincount, which makes int64 of the whole mask first.
    counts = torch.bincount(torch.from_numpy(np.ascontiguousarray(mask)).flatten()).tolist()
    pixels = {id_: count for id_, count in enumerate(counts) if count and id_ != VOID}
    total = sum(pixels.values())
    return {id_: count / total for id_, count in sorted(pixels.items(), key=lambda item: -item[1])}


def add_legend(
    image: Image.Image, fractions: Mapping[int, float], names: Mapping[int, str], palette: Palette
) -> Image.Image:
    """Puts a white strip below the image that names the classes, in the order of `fractions`.

    Args:
        image: The image.
        fractions: Class id -> share of the image in 0..1, such as [`class_fractions`] gives; only these are named.
        names: Class id -> name (`config.id2label`).
        palette: One (red, green, blue) per class.

    Returns:
        A PIL image of mode `RGB`: the image at the top left, as wide as it or as its longest entry.
    """
    size = max(_MIN_FONT_SIZE, image.width // 40)
    font = ImageFont.load_default(size)
    # Pillow measures text of one line only.
    said = {id_: " ".join(str(names.get(id_, id_)).splitlines()) for id_ in fractions}
    entries = [(id_, f"{said[id_]} {_percent(share)}") for id_, share in fractions.items()]
    # One entry is a square of color, a gap, the text and a margin.
    widths = [size + size // 2 + int(font.getlength(text)) + _MARGIN for _, text in entries]
    canvas_width = max([image.width, *(width + _MARGIN for width in widths)])
    positions, left, row = [], _MARGIN, 0
    for width in widths:
        if left + width > canvas_width and left > _MARGIN:
            left, row = _MARGIN, row + 1
        positions.append((left, row))
        left += width + _MARGIN
    line_height = size + _MARGIN
    strip_height = (row + 1) * line_height + _MARGIN if entries else 0

    canvas = Image.new("RGB", (canvas_width, image.height + strip_height), "white")
    canvas.paste(to_rgb(image), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for (id_, text), (x, line) in zip(entries, positions, strict=True):
        y = image.height + _MARGIN + line * line_height
        color = tuple(int(value) for value in palette[id_])
        draw.rectangle((x, y, x + size - 1, y + size - 1), fill=color, outline="black")
        draw.text((x + size + size // 2, y + size // 2), text, fill="black", font=font, anchor="lm")
    return canvas


def _percent(share: float) -> str:
    return "<0.1 %" if share < 0.001 else f"{100 * share:.1f} %"
