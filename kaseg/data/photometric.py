"""Random distortion of an image's colors."""

import numpy as np
import torch
from PIL import Image

_LEVELS = np.arange(256, dtype=np.float64)


class PhotometricDistortion:
    """Brightness, contrast, saturation and hue, each distorted with probability 0.5. Geometry is untouched.

    The recipe of SSD (Liu et al. 2016, as its published code has it) in the form that semantic segmentation uses, that
    of mmsegmentation's `PhotoMetricDistortion`; in levels of 0..255, clipped to them after every step:
        1. brightness: `pixel + u`, u uniform in -`brightness`..`brightness`;
        2. contrast, in half of the calls here and in the others last: `pixel * u`, u uniform in `contrast`;
        3. saturation: `S * u` in HSV, u uniform in `saturation`;
        4. hue: `H + u` around the circle in HSV, u uniform in -`hue`..`hue`.

    torchvision's `RandomPhotometricDistort` is another recipe: it blends with gray, and swaps channels. Here levels are
    rounded, and saturation and hue share one way through HSV (of 8 bits per channel, as in Pillow). All draws come from
    torch's CPU generator, nine numbers a call.

    Args:
        brightness: Largest shift of the levels, in 0..255.
        contrast, saturation: Lowest and highest factor.
        hue: Largest turn as a share of the circle, in 0..0.5. The default is SSD's 18 of OpenCV's 180 steps.

    Raises:
        ValueError: If a setting is out of its range; the message names it.
    """

    def __init__(
        self,
        brightness: float = 32.0,
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: float = 0.1,
    ) -> None:
        if not 0 <= brightness <= 255:
            raise ValueError(f"brightness is {brightness}; it is a number of levels in 0..255.")
        for name, bounds in (("contrast", contrast), ("saturation", saturation)):
            if not 0 <= bounds[0] <= bounds[1]:
                raise ValueError(f"{name} is {bounds}; give (low, high) with 0 <= low <= high.")
        if not 0 <= hue <= 0.5:
            raise ValueError(f"hue is {hue}; it is a share of the color circle in 0..0.5.")
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue

    def __call__(self, image: Image.Image) -> Image.Image:
        """Gives a distorted copy of an image of mode "RGB"."""
        contrast_first, *draws = torch.rand(9).tolist()
        applied = [draw < 0.5 for draw in draws[:4]]
        shift = _between(-self.brightness, self.brightness, draws[4]) if applied[0] else 0.0
        contrast = _between(*self.contrast, draws[5]) if applied[1] else 1.0
        saturation = _between(*self.saturation, draws[6]) if applied[2] else 1.0
        turn = _between(-self.hue, self.hue, draws[7]) if applied[3] else 0.0

        before, after = (contrast, 1.0) if contrast_first < 0.5 else (1.0, contrast)
        image = _map_levels(image, _clip(_clip(_LEVELS + shift) * before))
        steps = round(turn * 256)
        if steps or saturation != 1.0:  # the way through HSV rounds levels, so it is not taken for nothing
            bands = [(_LEVELS + steps) % 256, _clip(_LEVELS * saturation), _LEVELS]
            image = _map_levels(image.convert("HSV"), *bands).convert("RGB")
        return _map_levels(image, _clip(_LEVELS * after))


def _between(low: float, high: float, draw: float) -> float:
    return low + (high - low) * draw


def _clip(levels: np.ndarray) -> np.ndarray:
    return levels.round().clip(0, 255)


def _map_levels(image: Image.Image, *tables: np.ndarray) -> Image.Image:
    """Maps every band by its table of 256 levels, or all bands by the one that is given."""
    if all(np.array_equal(table, _LEVELS) for table in tables):
        return image
    tables = tables if len(tables) == 3 else tables * 3
    return image.point(np.concatenate(tables).astype(int).tolist())
