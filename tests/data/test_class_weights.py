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


def test_a_split_without_masks_is_named() -> None:
    with pytest.raises(ValueError, match="Sample image-7 has no label mask"):
        count_classes([{"label": None, "id": "image-7"}], 4)


def test_weights_are_median_frequency_over_frequency() -> None:
    counts = count_classes(_samples([[0, 0, 0, 1]], [[0, 0, 2, 2]]), 4)
    frequency = np.array([5 / 8, 1 / 4, 2 / 4])
    expected = np.median(frequency) / frequency
    assert median_frequency_weights(counts) == pytest.approx([*expected, 1.0])
    assert median_frequency_weights(counts, power=0.5) == pytest.approx([*np.sqrt(expected), 1.0])


def test_weights_do_not_depend_on_the_size_of_images() -> None:
    small = _samples([[0, 0, 0, 1], [0, 1, 2, 2]])
    large = [{"label": sample["label"].repeat(3, 0).repeat(3, 1)} for sample in small]
    weights = median_frequency_weights(count_classes(small, 3))
    assert median_frequency_weights(count_classes(large, 3)) == pytest.approx(weights)


def test_pictures_are_read() -> None:
    label = Image.fromarray(np.array([[0, 1]], np.uint8))
    assert count_classes([{"label": label}], 2).pixels.tolist() == [1, 1]


def test_a_label_out_of_range_names_the_sample() -> None:
    with pytest.raises(ValueError, match=r"Sample image-1: label 3 is neither one of the 3 classes nor void"):
        count_classes(_samples([[0]], [[3]]), 3)


def test_nothing_but_void_has_no_weights() -> None:
    with pytest.raises(ValueError, match="No labelled pixel"):
        median_frequency_weights(count_classes(_samples([[255]]), 2))
