import numpy as np
import pytest
from PIL import Image

from kaseg.data import count_classes, median_frequency_weights


def _samples(*labels) -> list[dict]:
    return [{"label": np.array(label, np.uint8), "id": f"image-{i}"} for i, label in enumerate(labels)]


def test_pixels_and_the_images_they_occur_in_are_counted() -> None:
    counts = count_classes(_samples([[0, 0, 1, 255]], [[0, 0, 0, 0]], [[2, 2, 255, 255]]), 4)
    assert counts.pixels.tolist() == [6, 1, 2, 0]
    assert counts.context.tolist() == [3 + 4, 3, 2, 0]
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    assert count_classes([{"label": image}], 2).pixels.tolist() == [1, 1]


def test_weights_are_median_frequency_over_frequency() -> None:
    counts = count_classes(_samples([[0, 0, 0, 1]], [[0, 0, 2, 2]]), 4)
    frequency = np.array([5 / 8, 1 / 4, 2 / 4])
    expected = np.median(frequency) / frequency
    assert median_frequency_weights(counts) == pytest.approx([*expected, 1.0])
    assert median_frequency_weights(counts, power=0.5) == pytest.approx([*np.sqrt(expected), 1.0])
    large = [{"label": np.array(label).repeat(3, 0).repeat(3, 1)} for label in ([[0, 0, 0, 1]], [[0, 0, 2, 2]])]
    assert median_frequency_weights(count_classes(large, 4)) == pytest.approx([*expected, 1.0])


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([{"label": None, "id": "image-7"}], "Sample image-7 has no label mask"),
        (_samples([[0]], [[3]]), r"Sample image-1: label 3 is neither one of the 3 classes nor void"),
        (_samples([[255]]), "No labelled pixel"),
    ],
)
def test_what_has_no_weights_is_refused(samples, message) -> None:
    with pytest.raises(ValueError, match=message):
        median_frequency_weights(count_classes(samples, 3))
