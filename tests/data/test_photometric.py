import colorsys

import numpy as np
import pytest
import torch
from PIL import Image

from kaseg.data.photometric import PhotometricDistortion

OFF = {"brightness": 0.0, "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "hue": 0.0}


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8))


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(np.float64)


def _results(distort: PhotometricDistortion, image: Image.Image, count: int = 40) -> list[np.ndarray]:
    torch.manual_seed(0)
    return [_pixels(distort(image)) for _ in range(count)]


def test_it_is_a_function_of_the_color_alone(image):
    """Shuffled pixels give the shuffled result, so nothing moves and no pixel looks at another."""
    order = np.random.default_rng(1).permutation(600)
    shuffled = Image.fromarray(np.asarray(image).reshape(600, 3)[order].reshape(20, 30, 3))
    before = np.array(image)
    for seed in range(20):
        results = []
        for picture in (image, shuffled):
            torch.manual_seed(seed)
            results.append(PhotometricDistortion()(picture))
        assert results[0].size == image.size and results[0].mode == "RGB"
        np.testing.assert_array_equal(
            np.asarray(results[0]).reshape(600, 3)[order], np.asarray(results[1]).reshape(600, 3)
        )
    np.testing.assert_array_equal(before, np.asarray(image))


def test_nothing_to_do_is_nothing_done_and_gray_stays_gray(image):
    assert all((result == _pixels(image)).all() for result in _results(PhotometricDistortion(**OFF), image))
    for result in _results(PhotometricDistortion(), Image.new("RGB", (2, 2), (90, 90, 90))):
        assert (result == result[..., :1]).all()


def test_brightness_shifts_levels_in_half_of_the_calls(image):
    shifts = []
    for result in _results(PhotometricDistortion(**{**OFF, "brightness": 32.0}), image, 400):
        shift = np.median(result - _pixels(image))
        np.testing.assert_array_equal(result, (_pixels(image) + shift).clip(0, 255))
        shifts.append(shift)
    moved = [shift for shift in shifts if shift]
    assert 160 < len(moved) < 240
    assert min(moved) < -28 and max(moved) > 28 and max(map(abs, moved)) <= 32 and abs(np.mean(moved)) < 4


def test_contrast_multiplies_levels(image):
    factors = []
    for result in _results(PhotometricDistortion(**{**OFF, "contrast": (0.5, 1.5)}), image, 200):
        dark = _pixels(image) < 150  # never clipped
        factor = result[dark].sum() / _pixels(image)[dark].sum()
        assert np.abs(result - (_pixels(image) * factor).clip(0, 255)).max() <= 1
        factors.append(factor)
    moved = [factor for factor in factors if factor != 1]
    assert 75 < len(moved) < 125 and 0.5 <= min(moved) < 0.55 and 1.45 < max(moved) <= 1.5


def test_contrast_comes_before_or_after_saturation():
    """A level of 250 at twice the contrast is clipped before the saturation is halved, or after it."""
    image = Image.new("RGB", (1, 1), (250, 100, 100))
    distort = PhotometricDistortion(**{**OFF, "contrast": (2.0, 2.0), "saturation": (0.5, 0.5)})
    results = {tuple(result[0, 0].astype(int)) for result in _results(distort, image, 200)}
    blue = sorted(color[2] for color in results if color[0] == 255)
    assert len(results) == 5  # neither, either, both in two orders
    assert blue == pytest.approx([200, 227, 255], abs=2)


def _hsv_reference(pixels: np.ndarray, turn: float, saturation: float) -> np.ndarray:
    out = []
    for red, green, blue in pixels.reshape(-1, 3) / 255:
        h, s, v = colorsys.rgb_to_hsv(red, green, blue)
        out.append(colorsys.hsv_to_rgb((h + turn) % 1, min(1.0, s * saturation), v))
    return np.array(out).reshape(pixels.shape) * 255


@pytest.mark.parametrize(("turn", "saturation"), [(0.1, 1.0), (0.0, 0.6), (0.0, 1.4), (0.08, 0.7)])
def test_saturation_and_hue_match_the_standard_library(image, turn, saturation):
    distort = PhotometricDistortion(**{**OFF, "hue": 0.1, "saturation": (saturation, saturation)})
    applied = 1.0 if saturation == 1.0 else 0.0
    draws = [0.0, 1.0, 1.0, applied, 0.0, 0.0, 0.0, 0.0, (turn / 0.1 + 1) / 2]  # both, but no factor of 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", lambda count: torch.tensor(draws))
        result = _pixels(distort(image))
    # 8 bits of hue are 6 * 255 / 256 levels of a channel to a step.
    error = np.abs(result - _hsv_reference(_pixels(image), turn, saturation))
    assert error.max() < 9 and error.mean() < 2


def test_hue_stays_within_its_turn():
    hues = set()
    for result in _results(PhotometricDistortion(**{**OFF, "hue": 0.1}), Image.new("RGB", (1, 1), (255, 0, 0)), 200):
        hue = colorsys.rgb_to_hsv(*(result[0, 0] / 255))[0]
        hues.add(hue - (hue > 0.5))
    assert -0.11 < min(hues) < -0.09 and 0.09 < max(hues) < 0.11


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"brightness": -1.0}, "brightness is -1.0"),
        ({"contrast": (1.5, 0.5)}, "contrast is"),
        ({"saturation": (-0.5, 0.5)}, "saturation is"),
        ({"hue": 0.6}, "hue is 0.6"),
    ],
)
def test_impossible_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        PhotometricDistortion(**arguments)
