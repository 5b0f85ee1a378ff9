"""Scenes are pure functions of their arguments, hold all classes, and cannot be solved by color alone."""

import random

import numpy as np
import pytest
from sklearn.metrics import jaccard_score
from sklearn.tree import DecisionTreeClassifier

from kaseg.data import SCENES, scenes
from kaseg.data.scene_objects import car, person
from kaseg.data.scene_street import CAR, PERSON, Street
from kaseg.data.scenes import render_scene

CLASSES = set(range(9))


@pytest.fixture(scope="module")
def fifty() -> list[tuple[np.ndarray, np.ndarray]]:
    return [render_scene(0, index) for index in range(50)]


def test_shapes_and_types(fifty):
    for image, labels in fifty[:5]:
        assert image.shape == (192, 256, 3) and image.dtype == np.uint8
        assert labels.shape == (192, 256) and labels.dtype == np.uint8
        assert image.flags.writeable and labels.flags.writeable
        assert image.std() > 15, "an image should not be flat"


def test_scenes_depend_on_their_arguments_alone(fifty):
    np.random.seed(123)
    random.seed(123)
    before, before_python = np.random.get_state(), random.getstate()
    for index in (7, 3, 7, 0):  # whatever was drawn before
        image, labels = render_scene(0, index)
        np.testing.assert_array_equal(image, fifty[index][0])
        np.testing.assert_array_equal(labels, fifty[index][1])
    after = np.random.get_state()
    assert before[0] == after[0] and (before[1] == after[1]).all() and before[2:] == after[2:]
    assert random.getstate() == before_python


def test_seed_and_index_both_matter():
    keys = [(0, 0), (0, 1), (1, 0), (1, 1), (10, 0), (0, 10)]
    drawn = {key: render_scene(*key, height=64, width=64) for key in keys}
    for i, first in enumerate(keys):
        for second in keys[i + 1 :]:
            assert (drawn[first][1] != drawn[second][1]).mean() > 0.02, (first, second)
            assert (drawn[first][0] != drawn[second][0]).mean() > 0.5, (first, second)


@pytest.mark.parametrize(("height", "width"), [(97, 131), (16, 16), (17, 301), (240, 61)])
def test_any_size(height, width):
    for index in range(4):
        image, labels = render_scene(3, index, height, width)
        assert image.shape == (height, width, 3) and labels.shape == (height, width)
        assert set(np.unique(labels)) <= CLASSES | {255}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, 0, 15, 64), "16 x 16"), ((0, 0, 64, 8), "width=8"), ((-1, 0), "seed=-1"), ((0, -2), "index=-2")],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        render_scene(*arguments)


def test_every_class_is_in_most_scenes_and_void_is_rare(fifty):
    present = np.zeros(256, dtype=int)
    pixels = np.zeros(256, dtype=int)
    for _, labels in fifty:
        counts = np.bincount(labels.ravel(), minlength=256)
        present += counts > 0
        pixels += counts
    assert set(np.flatnonzero(present)) == CLASSES | {255}
    for label in CLASSES:
        assert present[label] >= 0.6 * len(fifty), SCENES.names[label]
    share = pixels / pixels.sum()
    assert share[255] < 0.05
    assert share[[6, 7, 8]].max() < 0.05, "people, poles and signs are small, as in real streets"
    assert share[[0, 1, 3]].min() > 0.1


def test_labels_lie_on_the_edges_of_the_picture(fifty):
    """Moving the labels sideways, or mirroring them, makes their outlines lie on less contrast."""

    def contrast_at_outlines(image: np.ndarray, labels: np.ndarray) -> float:
        gray = image.mean(axis=2)
        across = np.abs(gray[:, 2:] - gray[:, :-2])  # of pixel 1..W-2
        outline = labels[:, 1:-2] != labels[:, 2:-1]
        return np.maximum(across[:, :-1], across[:, 1:])[outline].mean()

    moved = {"none": lambda y: y, "3 right": lambda y: np.roll(y, 3, 1), "3 left": lambda y: np.roll(y, -3, 1)}
    moved |= {
        "mirrored": lambda y: y[:, ::-1],
        "3 down": lambda y: np.roll(y, 3, 0),
        "3 up": lambda y: np.roll(y, -3, 0),
    }
    contrast = {
        name: np.mean([contrast_at_outlines(image, move(labels)) for image, labels in fifty[:12]])
        for name, move in moved.items()
    }
    for name in set(contrast) - {"none"}:
        assert contrast["none"] > 1.2 * contrast[name], contrast


def test_near_things_hide_far_ones(monkeypatch):
    def people_seen(order: list[str], index: int) -> np.ndarray:
        def lay_out(rng: np.random.Generator, street: Street):
            own = np.random.default_rng(1)  # leaves the scene's own numbers alone, among them the mirror image
            things = {"person": person(own, 0.0, 6.0), "car": car(own, street, 0.0, 12.0, turned=False)}
            return [things[name] for name in order]

        monkeypatch.setattr(scenes, "_lay_out", lay_out)
        _, labels = render_scene(0, index)
        assert (labels == CAR).any() == ("car" in order)
        return labels == PERSON

    for index in range(4):
        alone = people_seen(["person"], index)
        assert alone.sum() > 100
        np.testing.assert_array_equal(people_seen(["person", "car"], index), alone)
        np.testing.assert_array_equal(people_seen(["car", "person"], index), alone)


def test_color_alone_does_not_give_the_class_away(fifty):
    """Per-pixel classifiers on RGB (trees, forests, boosting) were measured at a mean IoU of 0.18 to 0.24."""
    rng = np.random.default_rng(0)

    def pixels(pairs):
        colors, classes = (
            np.concatenate([part.reshape(-1, *part.shape[2:]) for part in parts]) for parts in zip(*pairs, strict=True)
        )
        chosen = rng.permutation(np.flatnonzero(classes != 255))[:60_000]
        return colors[chosen], classes[chosen]

    colors, classes = pixels(fifty[:35])
    model = DecisionTreeClassifier(min_samples_leaf=20, random_state=0).fit(colors, classes)
    colors, classes = pixels(fifty[35:])
    iou = jaccard_score(classes, model.predict(colors), average="macro")
    assert 0.12 < iou < 0.33, iou
