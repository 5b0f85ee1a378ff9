"""What the parts of a synthetic street scene share: class ids, camera, weather and the canvas."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from kaseg.pixels import VOID as VOID

# In the order of `catalog/scenes.yaml`.
SKY, ROAD, PAVEMENT, BUILDING, TREE, CAR, PERSON, POLE, SIGN = range(9)

Color = tuple[float, float, float]
Point = tuple[float, float, float]  # meters: right of the camera's lane, above the ground, ahead of the camera

_NEAR = 0.6  # meters; nothing is projected closer than this


class Street:
    """Camera, cross-section of the street and weather of one scene, drawn at random.

    Lengths are in meters, image quantities in pixels.
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.width, self.height = width, height
        lane = rng.uniform(2.9, 3.6)
        lanes_left = int(rng.integers(1, 3))
        parking = 2.2 * (rng.random(2) < 0.6)
        left = -lane * (lanes_left + 0.5) - parking[0]
        right = lane * 0.5 + parking[1]
        pavement = rng.uniform(2.2, 5.5, 2)
        self.weather = str(rng.choice(["sun", "overcast", "dusk"], p=[0.45, 0.37, 0.18]))
        self.ambient: Color
        self.ambient, haze = {
            "sun": ((1.04, 1.0, 0.94), (205, 215, 228)),
            "overcast": ((0.86, 0.88, 0.92), (200, 204, 208)),
            "dusk": ((0.5, 0.46, 0.52), (196, 150, 130)),
        }[self.weather]
        shift = rng.uniform(-0.4, 0.4)  # of the camera in its lane
        self.focal = max(width, height) * rng.uniform(0.68, 1.0)
        self.horizon = height * rng.uniform(0.36, 0.54)
        self.center = width * rng.uniform(0.38, 0.62)
        self.eye = rng.uniform(1.35, 2.6)  # height of the camera
        # The road's center is at x = bend * z ** 2.
        self.bend = rng.normal(0.0, 0.0012) if rng.random() < 0.6 else 0.0
        self.road = (left + shift, right + shift)  # left and right kerb
        self.walls = (left + shift - pavement[0], right + shift + pavement[1])  # left and right building line
        self.lanes = tuple(-lane * (i + 0.5) + shift for i in range(lanes_left))  # the lines between lanes
        # Distance of the crossing street, infinite if there is none.
        self.junction = rng.uniform(11, 40) if rng.random() < 0.45 else math.inf
        # Side the light comes from; 0 under an overcast sky.
        self.sun = int(rng.choice([-1, 1])) if self.weather != "overcast" else 0
        self.haze = vary(rng, haze, 12)
        self.haze_depth = math.exp(rng.uniform(math.log(60), math.log(500)))

    def project(self, point: Point) -> tuple[float, float]:
        """Column and row of a point; points behind the camera are moved just before it."""
        return self.project_all([point])[0]

    def project_all(self, points: Sequence[Point]) -> list[tuple[float, float]]:
        """As `project`, for several points at once."""
        focal, center, horizon, eye, bend = self.focal, self.center, self.horizon, self.eye, self.bend
        flat = []
        for x, y, z in points:
            if z < _NEAR:
                z = _NEAR
            flat.append((center + focal * (x / z + bend * z), horizon - focal * (y - eye) / z))
        return flat

    def tint(self, color: Sequence[float], depth: float, light: float = 1.0) -> tuple[int, int, int]:
        """A surface's color as seen from `depth` meters, `light` being how much its face is lit."""
        clear = math.exp(-depth / self.haze_depth)
        (r, g, b), (ar, ag, ab), (hr, hg, hb) = color, self.ambient, self.haze
        near, far = clear * light, 1 - clear
        return (
            min(int(r * ar * near + hr * far), 255),
            min(int(g * ag * near + hg * far), 255),
            min(int(b * ab * near + hb * far), 255),
        )

    def face_light(self, side: int) -> float:
        """How much a face that looks to `side` (-1 left, 1 right, 0 to the camera) is lit."""
        return 1.0 + 0.18 * side * self.sun if self.sun else 0.97


class Canvas:
    """Image and labels, painted with the same shapes."""

    def __init__(self, street: Street, image: np.ndarray, labels: np.ndarray) -> None:
        self.street = street
        self.image = Image.fromarray(image)
        self.labels = Image.fromarray(labels)
        self._draw_image = ImageDraw.Draw(self.image)
        self._draw_labels = ImageDraw.Draw(self.labels)

    def polygon(self, points: Sequence[Point], color: Sequence[float], label: int, light: float = 1.0) -> None:
        """Fill a polygon given in meters."""
        flat = self.street.project_all(points)
        self._draw_image.polygon(flat, fill=self.street.tint(color, points[0][2], light))
        self._draw_labels.polygon(flat, fill=label)

    def panel(
        self, x: float, half: float, span: tuple[float, float], z: float, color: Sequence[float], label: int
    ) -> None:
        """Fill a rectangle that faces the camera: `half` meters to both sides of `x`, `span` above the ground."""
        low, high = span
        corners = [(x - half, low, z), (x - half, high, z), (x + half, high, z), (x + half, low, z)]
        self.polygon(corners, color, label)

    def disc(self, x: float, y: float, z: float, radius: float, color: Sequence[float], label: int) -> None:
        """Fill a disc that faces the camera, given in meters."""
        column, row = self.street.project((x, y, z))
        size = max(radius * self.street.focal / z, 0.5)
        box = [column - size, row - size, column + size, row + size]
        self._draw_image.ellipse(box, fill=self.street.tint(color, z))
        self._draw_labels.ellipse(box, fill=label)

    def paste(self, patch: np.ndarray, mask: np.ndarray, left: int, top: int, label: int) -> None:
        """Put `patch`, uint8 (h, w, 3), where `mask`, bool (h, w), is true."""
        stencil = Image.fromarray(mask.astype(np.uint8) * 255)
        self.image.paste(Image.fromarray(patch), (left, top), stencil)
        self.labels.paste(label, (left, top, left + mask.shape[1], top + mask.shape[0]), stencil)


@dataclass
class Thing:
    """Something that stands on the street: when to paint it (the farthest first), how, and what casts its shadow."""

    depth: float
    draw: Callable[[Canvas], None]
    footprint: tuple[float, float, float, float] | None = None  # x0, x1, z0, z1
    height: float = 0.0


def vary(rng: np.random.Generator, color: Sequence[float], spread: float) -> Color:
    """A color near `color`: brightness varies by `spread`, the channels by a third of it (8-bit steps)."""
    shift, red, green, blue = (rng.standard_normal(4) * spread).tolist()
    return (
        max(color[0] + shift + red / 3, 8.0),
        max(color[1] + shift + green / 3, 8.0),
        max(color[2] + shift + blue / 3, 8.0),
    )


def smooth_noise(rng: np.random.Generator, height: int, width: int, across: int, down: int) -> np.ndarray:
    """Noise in about 0..1 with `across` x `down` random knots, float32 (height, width)."""
    knots = Image.fromarray(rng.random((down, across), dtype=np.float32))
    return np.asarray(knots.resize((width, height), Image.Resampling.BICUBIC))
