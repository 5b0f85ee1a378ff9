"""Colors, overlays and legends."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kaseg.inference.overlay import add_legend, class_fractions, colorize, overlay

PALETTE = [(0, 0, 0), (128, 0, 0), (0, 200, 100)]
MASK = np.array([[0, 1, 1], [2, 255, 0]], dtype=np.uint8)


def test_a_palette_png_holds_ids_and_colors(tmp_path: Path) -> None:
    colorize(MASK, PALETTE).save(tmp_path / "mask.png")
    stored = Image.open(tmp_path / "mask.png")
    assert stored.mode == "P"
    np.testing.assert_array_equal(np.array(stored), MASK)
    colors = np.array([*PALETTE, (224, 224, 192)])
    np.testing.assert_array_equal(np.array(stored.convert("RGB")), colors[np.where(MASK == 255, 3, MASK)])


def test_ids_without_a_color_are_named() -> None:
    with pytest.raises(ValueError, match=r"\[3\].*3 colors"):
        colorize(np.array([[0, 3]], dtype=np.int64), PALETTE)
    with pytest.raises(ValueError, match=r"\[-1\]"):
        colorize(np.array([[-1, 0]]), PALETTE)
    with pytest.raises(ValueError, match="float64"):
        colorize(np.zeros((2, 2)), PALETTE)
    with pytest.raises(ValueError, match="257"):
        colorize(MASK, [(0, 0, 0)] * 257)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_overlay_is_a_weighted_mean(alpha: float) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    colors = np.array([*PALETTE, (224, 224, 192)])[np.where(MASK == 255, 3, MASK)]
    expected = (1 - alpha) * rgb + alpha * colors
    mixed = overlay(Image.fromarray(rgb), MASK, PALETTE, alpha=alpha)
    np.testing.assert_allclose(np.asarray(mixed), expected, atol=1)
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        overlay(Image.new("RGB", (2, 3)), MASK, PALETTE)


def test_fractions_leave_void_out_and_come_largest_first() -> None:
    fractions = class_fractions(MASK)
    assert fractions == {0: 0.4, 1: 0.4, 2: 0.2} and list(fractions)[-1] == 2
    assert class_fractions(np.full((2, 2), 255)) == {}


@pytest.mark.parametrize("width", [30, 400])
def test_the_legend_lies_below_and_shows_every_color(width: int) -> None:
    image = Image.new("RGB", (width, 50), (10, 20, 30))
    names = {0: "background", 1: "a rather long name", 2: "person"}
    with_legend = add_legend(image, {0: 0.75, 1: 0.2495, 2: 0.0005}, names, PALETTE)
    pixels = np.asarray(with_legend)
    assert with_legend.width >= width and with_legend.height > 50
    np.testing.assert_array_equal(pixels[:50, :width], np.asarray(image))
    strip = pixels[50:].reshape(-1, 3)
    for color in PALETTE:
        assert (strip == color).all(-1).sum() > 50, color
    # Nothing is cut off: the outermost pixels of the strip are blank.
    assert (pixels[50:, -1] == 255).all() and (pixels[-1] == 255).all()


def test_no_classes_no_strip() -> None:
    assert add_legend(Image.new("RGB", (30, 20)), {}, {}, PALETTE).size == (30, 20)
