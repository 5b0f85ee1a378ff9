import itertools

import numpy as np
import pytest

from kaseg.evaluation.plots import plot_confusion_matrix


def test_rows_add_up_to_a_hundred() -> None:
    figure = plot_confusion_matrix([[3, 1, 0], [0, 0, 0], [0, 0, 7]], ["sky", "road", "car"])
    axes = figure.axes[0]
    shown = axes.images[0].get_array()
    assert shown[0].tolist() == [75, 25, 0] and shown[2].tolist() == [0, 0, 100]
    assert np.ma.getmaskarray(shown)[1].all() or np.isnan(np.asarray(shown)[1]).all()
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {
        ((0, 0), "75"),
        ((1, 0), "25"),
        ((2, 2), "100"),
    }
    assert [label.get_text() for label in axes.get_yticklabels()] == ["sky", "road", "car"]


@pytest.mark.parametrize("classes", [11, 171])
def test_names_do_not_overlap(classes: int) -> None:
    matrix = np.random.default_rng(0).integers(0, 100, (classes, classes))
    figure = plot_confusion_matrix(matrix, [f"class number {index}" for index in range(classes)])
    figure.draw_without_rendering()  # lays it out
    axes = figure.axes[0]
    for labels, low, high in ((axes.get_yticklabels(), "y0", "y1"), (axes.get_xticklabels(), "x0", "x1")):
        boxes = [label.get_window_extent() for label in labels]
        assert len(boxes) == classes
        edges = sorted((getattr(box, low), getattr(box, high)) for box in boxes)
        assert all(before[1] <= after[0] + 1 for before, after in itertools.pairwise(edges))
        assert min(box.width * box.height for box in boxes) > 0
        assert all(label.get_fontsize() >= 7 for label in labels)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2\) does not go with 3 class names"):
        plot_confusion_matrix(np.eye(2), ["a", "b", "c"])
