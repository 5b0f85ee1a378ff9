"""Whatever an object paints into the image, it paints into the labels: the same pixels, with its own class."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from kaseg.data import scene_objects as objects
from kaseg.data.scene_street import BUILDING, CAR, PERSON, POLE, SIGN, TREE, VOID, Canvas, Street

KEY = (255, 0, 254)  # a color that no surface has
NOTHING = 77


def empty(street: Street, height: int = 97, width: int = 131) -> Canvas:
    image, labels = np.full((height, width, 3), KEY, np.uint8), np.full((height, width), NOTHING, np.uint8)
    return Canvas(street, image, labels)


def make(name: str, rng: np.random.Generator, street: Street):
    x, z = rng.uniform(-5, 5), rng.uniform(4, 25)
    crowns = [objects.crown(rng, conifer=False), objects.crown(rng, conifer=True)]
    return {
        "building": lambda: objects.building(rng, street, 6.0, 1, z, z + 15, 9.0),
        "house_on_the_left": lambda: objects.building(rng, street, -7.0, -1, 2.0, 12.0, 6.0),
        "tree": lambda: objects.tree(rng, x, z, 6.0, crowns),
        "hedge": lambda: objects.hedge(rng, -6.0, -1, z, z + 6),
        "car": lambda: objects.car(rng, street, x, z, turned=bool(rng.random() < 0.5)),
        "crossing_car": lambda: objects.car(rng, street, x, z, turned=False, across=True),
        "person": lambda: objects.person(rng, x, z),
        "lamp": lambda: objects.lamp(rng, x, z, 6.0, 1.5 * (rng.random() < 0.5)),
        "sign": lambda: objects.sign(rng, x, z),
        "bollard": lambda: objects.bollard(rng, x, z),
        "litter_bin": lambda: objects.litter_bin(rng, x, z),
    }[name]()


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("building", {BUILDING}),
        ("house_on_the_left", {BUILDING}),
        ("tree", {TREE}),
        ("hedge", {TREE}),
        ("car", {CAR}),
        ("crossing_car", {CAR}),
        ("person", {PERSON}),
        ("lamp", {POLE}),
        ("sign", {POLE, SIGN}),
        ("bollard", {POLE}),
        ("litter_bin", {VOID}),
    ],
)
def test_picture_and_labels_get_the_same_pixels(name, classes):
    painted = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        street = Street(rng, 97, 131)
        canvas = empty(street)
        make(name, rng, street).draw(canvas)
        labels = np.asarray(canvas.labels)
        touched = (np.asarray(canvas.image) != KEY).any(axis=2)
        np.testing.assert_array_equal(touched, labels != NOTHING)
        assert set(np.unique(labels)) <= classes | {NOTHING}
        painted += touched.sum()
    assert painted > 12 * 20


def test_painting_makes_no_random_choices():
    for name in ("car", "person", "sign", "tree"):
        rng = np.random.default_rng(5)
        street = Street(rng, 97, 131)
        thing = make(name, rng, street)
        state = rng.bit_generator.state
        first, second = empty(street), empty(street)
        thing.draw(first)
        thing.draw(second)
        np.testing.assert_array_equal(np.asarray(first.image), np.asarray(second.image))
        assert rng.bit_generator.state == state


def test_a_car_is_as_large_as_its_distance_says():
    """Twice as far, half as wide (the back of a car, seen straight from behind)."""
    widths = []
    for z in (8.0, 16.0):
        rng = np.random.default_rng(1)
        street = Street(rng, 300, 400)
        street.bend = 0.0
        thing = objects.car(rng, street, 0.0, z, turned=False)
        canvas = empty(street, 300, 400)
        thing.draw(canvas)
        columns = np.flatnonzero((np.asarray(canvas.labels) == CAR).any(axis=0))
        widths.append(columns.max() - columns.min())
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.08)


@pytest.mark.parametrize(("along_road", "side"), [(True, 1), (True, -1), (False, 1), (False, -1)])
def test_a_wall_covers_what_its_corners_enclose(along_road, side):
    rng = np.random.default_rng(2)
    street = Street(rng, 192, 256)
    street.bend = 0.0
    street.focal, street.center = 120.0, 125.0
    line, near, far, height = 6.0 * side, 9.0, 24.0, 7.0
    facade = objects._Facade(rng, street, line, side, near, far, height)
    facade.height, facade.floor, facade.bay, facade.window, facade.shop = height, 3.0, 3.0, (0.5, 0.5), True
    facade.palette = [(90.0, 90.0, 90.0)] * 6
    canvas = empty(street, 192, 256)
    facade.paint(canvas, along_road)
    ends = [(line, near), (line, far)] if along_road else [(line, near), (line + 9 * side, near)]
    (x0, z0), (x1, z1) = ends
    corners = [(x0, 0.0, z0), (x0, height, z0), (x1, height, z1), (x1, 0.0, z1)]
    expected = Image.new("L", (256, 192))
    ImageDraw.Draw(expected).polygon(street.project_all(corners), fill=1)
    wrong = (np.asarray(canvas.labels) == BUILDING) != np.asarray(expected, dtype=bool)
    assert np.asarray(expected).sum() > 500
    thick = wrong[:-1, :-1] & wrong[1:, :-1] & wrong[:-1, 1:] & wrong[1:, 1:]
    assert not thick.any(), "off by more than one pixel along the outline"
