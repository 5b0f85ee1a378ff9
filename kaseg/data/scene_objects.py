"""Houses, trees, cars, people, poles and signs of a synthetic street scene.

Each function makes its random choices at once and returns a [`Thing`] that can be painted later, in any order."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from kaseg.data.scene_street import (
    BUILDING,
    CAR,
    PERSON,
    POLE,
    SIGN,
    TREE,
    VOID,
    Canvas,
    Color,
    Point,
    Street,
    Thing,
    smooth_noise,
    vary,
)

_PAINTS = [(190, 190, 192), (36, 36, 40), (120, 122, 126), (226, 226, 224), (140, 34, 34)]
_PAINTS += [(44, 66, 120), (70, 96, 70), (176, 160, 130), (200, 150, 50)]
_CIRCLE = [(math.cos(turn * math.pi / 5), math.sin(turn * math.pi / 5)) for turn in range(10)]
_PAINT_SHARES = (0.17, 0.17, 0.16, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05)


def building(
    rng: np.random.Generator, street: Street, line: float, side: int, near: float, far: float, height: float
) -> Thing:
    facade = _Facade(rng, street, line, side, near, far, height)
    wall, height = facade.palette[0], facade.height
    roof = rng.uniform(1.5, 4) if rng.random() < 0.45 else 0.0
    tiles = vary(rng, [(140, 74, 58), (84, 82, 86), (110, 92, 80)][rng.integers(3)], 15)

    def draw(canvas: Canvas) -> None:
        out = line + side * 9
        if roof:
            ridge = line + side * 4.5
            top = height + roof
            slope = [(line, height, near), (line, height, far), (ridge, top, far), (ridge, top, near)]
            canvas.polygon(slope, tiles, BUILDING, street.face_light(-side))
            canvas.polygon([(line, height, near), (ridge, top, near), (out, height, near)], wall, BUILDING)
        facade.paint(canvas, along_road=False)
        facade.paint(canvas, along_road=True)

    x0, x1 = sorted((line, line + side * 9))
    return Thing(far, draw, footprint=(x0, x1, near, far), height=height)


def _facade_palette(rng: np.random.Generator, street: Street, wall: Color) -> list[Color]:
    """Colors of wall, two kinds of panes, lit panes, frames, shop fronts and cornice."""
    lit = (255, 214, 140) if street.weather == "dusk" else vary(rng, (120, 130, 140), 30)
    glow = 1.8 if street.weather == "dusk" and rng.random() < 0.8 else 1.0
    trim = rng.uniform(0.7, 1.3)
    return [
        wall,
        vary(rng, (52, 60, 72), 14),
        vary(rng, (96, 110, 128), 24),
        (lit[0] * glow, lit[1] * glow, lit[2] * glow),
        vary(rng, (170, 90, 70) if rng.random() < 0.5 else (60, 84, 110), 50),
        (wall[0] * trim, wall[1] * trim, wall[2] * trim),
    ]


class _Facade:
    """The two visible faces of a house: along the road, and toward the camera."""

    def __init__(
        self, rng: np.random.Generator, street: Street, line: float, side: int, near: float, far: float, height: float
    ) -> None:
        self.line, self.side, self.near, self.far = line, side, near, far
        walls = [(168, 112, 88), (196, 182, 158), (150, 148, 146), (214, 206, 192), (128, 96, 80), (120, 132, 146)]
        wall = vary(rng, walls[rng.integers(len(walls))], 22)
        self.floor, self.bay = rng.uniform(2.7, 3.6), rng.uniform(1.8, 4.0)
        self.height = max(round(height / self.floor), 2) * self.floor
        self.window = (rng.uniform(0.3, 0.75), rng.uniform(0.4, 0.7))
        self.shop = rng.random() < 0.4
        self.panes = rng.integers(0, 3, (16, 16))
        self.palette = _facade_palette(rng, street, wall)

    def paint(self, canvas: Canvas, along_road: bool) -> None:
        street = canvas.street
        if along_road:  # which point of the wall does each column see?
            depths = 1 / np.linspace(1 / self.near, 1 / self.far, 24)
            seen = street.center + street.focal * (self.line / depths + street.bend * depths)
        else:
            depths = np.full(2, self.near)
            reach = np.array([self.line, self.line + self.side * 9])
            seen = street.center + street.focal * (reach / self.near + street.bend * self.near)
        first, last = max(math.floor(seen.min()), 0), min(math.ceil(seen.max()), street.width)
        if last <= first:
            return
        columns = np.arange(first, last) + 0.5
        order = np.argsort(seen)
        position = np.interp(columns, seen[order], (depths if along_road else reach)[order])
        depth = position if along_road else np.full(columns.size, self.near)
        scale = depth / street.focal
        top = max(math.floor(street.horizon - ((self.height - street.eye) / scale).max()), 0)
        bottom = min(math.ceil(street.horizon + (street.eye / scale).max()), street.height)
        if bottom <= top:
            return
        level = (street.horizon - (np.arange(top, bottom) + 0.5))[:, None] * scale[None] + street.eye
        mask = (level >= 0) & (level <= self.height)
        material = self._material(position - (self.near if along_road else self.line), level)
        middle, light = float(depth.mean()), street.face_light(-self.side if along_road else 0)
        colors = np.array([street.tint(color, middle, light) for color in self.palette], dtype=np.uint8)
        canvas.paste(colors[material], mask, first, top, BUILDING)

    def _material(self, along: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Index into the palette for each pixel, from meters along the wall (w,) and above the ground (h, w)."""
        across, up = along / self.bay, level / self.floor
        in_bay = np.abs(across % 1 - 0.5) < self.window[0] / 2
        in_floor = np.abs(up % 1 - 0.5) < self.window[1] / 2
        panes = self.panes[up.astype(np.int32) & 15, (across.astype(np.int32) & 15)[None]] + 1
        material = np.where(in_bay[None] & in_floor, panes, 0)
        material[level > self.height - 0.35] = 5
        if self.shop:
            front = np.where(np.abs(across % 1 - 0.5) < 0.42, 1, 5)[None]
            street_level = level < self.floor
            material = np.where(street_level, np.where(up > 0.78, 4, front), material)
        return material


def tree(rng: np.random.Generator, x: float, z: float, tall: float, crowns: list[np.ndarray]) -> Thing:
    """A trunk with one of `crowns` (see [`crown`]) on it."""
    wide = tall * rng.uniform(0.6, 1.0)
    bare = tall * rng.uniform(0.1, 0.28)
    leaves = [(74, 104, 52), (92, 118, 60), (52, 78, 48), (132, 124, 56), (150, 96, 52)]
    leaf = vary(rng, leaves[rng.choice(5, p=[0.35, 0.25, 0.2, 0.1, 0.1])], 16)
    bark = vary(rng, (92, 76, 62), 14)
    thick = max(0.035 * tall, 0.12)
    shape = crowns[rng.integers(len(crowns))][:, :, :: int(rng.choice([-1, 1]))]

    def draw(canvas: Canvas) -> None:
        top = thick * 0.6
        trunk = [(x - thick, 0.0, z), (x - top, tall * 0.6, z), (x + top, tall * 0.6, z), (x + thick, 0.0, z)]
        canvas.polygon(trunk, bark, TREE)
        _paint_crown(canvas, shape, leaf, (x - wide / 2, x + wide / 2), (bare, tall), z)

    return Thing(z, draw, footprint=(x - wide * 0.25, x + wide * 0.25, z - 0.3, z + 0.3), height=tall * 0.8)


def hedge(rng: np.random.Generator, line: float, side: int, near: float, far: float) -> Thing:
    leaf = vary(rng, (70, 94, 52), 14)
    tall = rng.uniform(0.9, 2.2)

    def draw(canvas: Canvas) -> None:
        front = [(line, 0.0, near), (line, tall, near), (line + side * 8, tall, near), (line + side * 8, 0.0, near)]
        flank = [(line, 0.0, near), (line, tall, near), (line, tall, far), (line, 0.0, far)]
        canvas.polygon(front, leaf, TREE, 0.85)
        canvas.polygon(flank, leaf, TREE, canvas.street.face_light(-side))

    return Thing(far, draw)


def crown(rng: np.random.Generator, conifer: bool) -> np.ndarray:
    """Density and shading of a crown, float32 (2, 48, 48); leaves are where the density is positive."""
    size = 48
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    rough = smooth_noise(rng, size, size, 7, 7) - 0.5
    fine = rng.random((size, size), dtype=np.float32) - 0.5
    inside = 0.55 * (y + 1) - 1.2 * np.abs(x) if conifer else 0.62 - x**2 - y**2
    density = inside + 0.75 * rough + 0.2 * fine
    shade = 0.85 - 0.28 * y + 0.5 * rough + 0.35 * fine
    return np.stack([density, shade])


def _paint_crown(
    canvas: Canvas, shape: np.ndarray, leaf: Color, across: tuple[float, float], up: tuple[float, float], z: float
) -> None:
    street = canvas.street
    left, top = (round(value) for value in street.project((across[0], up[1], z)))
    right, bottom = (round(value) for value in street.project((across[1], up[0], z)))
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    # Only the part inside the image is enlarged: a near crown may be far larger than it.
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, street.width), min(bottom, street.height)
    if x0 >= x1 or y0 >= y1:
        return
    sx, sy = shape.shape[2] / (right - left), shape.shape[1] / (bottom - top)
    box = ((x0 - left) * sx, (y0 - top) * sy, (x1 - left) * sx, (y1 - top) * sy)
    density, shade = (
        np.asarray(Image.fromarray(plane).resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=box))
        for plane in shape
    )
    steps = ((shade + np.linspace(-0.25, 0.25, x1 - x0, dtype=np.float32) * street.sun) * 8).clip(2, 11)
    colors = np.array([street.tint(leaf, z, step / 8) for step in range(12)], dtype=np.uint8)
    canvas.paste(colors[steps.astype(np.uint8)], density > 0, x0, y0, TREE)


def car(rng: np.random.Generator, street: Street, x: float, z: float, turned: bool, across: bool = False) -> Thing:
    body = _Car(rng, street, x, z, turned, across)
    half_x, half_z = (body.half_length, body.half_width) if across else (body.half_width, body.half_length)
    footprint = (x - half_x, x + half_x, body.z - half_z, body.z + half_z)
    return Thing(z, body.paint_on, footprint, height=body.tall)


class _Car:
    """Lower body, cabin and wheels. Points are (a, y, b): meters across from its middle, above the ground, forward."""

    def __init__(
        self, rng: np.random.Generator, street: Street, x: float, z: float, turned: bool, across: bool
    ) -> None:
        van = rng.random() < 0.2
        self.paint = vary(rng, _PAINTS[rng.choice(9, p=_PAINT_SHARES)], 14)
        self.tall = rng.uniform(1.9, 2.5) if van else rng.uniform(1.4, 1.6)
        self.half_length = 2.5 if van else rng.uniform(1.9, 2.35)
        self.half_width = 0.97 if van else 0.88
        angle = (math.pi / 2 if across else 0.0) + rng.normal(0, 0.03)
        self.x, self.z, self.cos, self.sin = x, z + self.half_length, math.cos(angle), math.sin(angle)
        self.turned = turned  # front toward the camera
        self.belt = 0.6 * self.tall  # height of the lower edge of the windows
        self.narrow = 0.95 if van else 0.8  # width of the roof as a share of the car's
        # Back and front of the cabin at the belt and at the roof, as shares of half the length.
        self.sill, self.roof = ((-0.98, 0.72), (-0.95, 0.5)) if van else ((-0.88, 0.42), (-0.6, 0.12))
        self.glass = vary(rng, (58, 68, 78), 18)
        glow = 1.9 if street.weather == "dusk" else 1.1
        self.lamp = (230 * glow, 226 * glow, 200 * glow) if turned else (190 * glow, 34, 28)

    def at(self, a: float, y: float, b: float) -> Point:
        """From the car's frame to the street's."""
        if self.turned:
            a, b = -a, -b
        return self.x + a * self.cos + b * self.sin, y, self.z - a * self.sin + b * self.cos

    def paint_on(self, canvas: Canvas) -> None:
        """Paint the visible faces, from the ground up."""
        column, _ = canvas.street.project((self.x, 0.0, self.z))
        if abs(column - canvas.street.width / 2) > canvas.street.width / 2 + canvas.street.focal * 4 / self.z:
            return  # out of sight
        w, h, top = self.half_width, self.half_length, self.half_width * self.narrow
        self._quad(canvas, [(-w, 0.2, -h), (w, 0.2, -h), (w, 0.2, h), (-w, 0.2, h)], (22, 22, 24))
        belt, tall, nose = self.belt, self.tall, self.belt * 0.88
        near = tall * canvas.street.focal > 9 * self.z  # more than 9 pixels tall, so that details show
        (s0, s1), (r0, r1) = ((h * back, h * front) for back, front in (self.sill, self.roof))
        self._quad(canvas, [(-w, belt, -h), (w, belt, -h), (w, belt, s1), (-w, belt, s1)], self.paint, 1.08)
        self._quad(canvas, [(-w, belt, s1), (w, belt, s1), (w, nose, h), (-w, nose, h)], self.paint, 1.08)
        self._quad(canvas, [(-top, tall, r0), (top, tall, r0), (top, tall, r1), (-top, tall, r1)], self.paint, 1.1)
        for side in (-1, 1):
            body = [(side * w, 0.25, -h), (side * w, 0.25, h), (side * w, nose, h)]
            body += [(side * w, belt, s1), (side * w, belt, -h)]
            if self._faces_camera(canvas, body, side):
                cabin = [(side * w, belt, s0), (side * w, belt, s1), (side * top, tall, r1), (side * top, tall, r0)]
                self._window(canvas, cabin, 0.85)
                self._quad(canvas, body, self.paint, 0.92)
                if near:
                    self._wheel(canvas, side * w, -0.62 * h)
                    self._wheel(canvas, side * w, 0.62 * h)
        for end, sill, edge, high in ((-1, s0, r0, belt), (1, s1, r1, nose)):
            face = [(-w, 0.25, end * h), (w, 0.25, end * h), (w, high, end * h), (-w, high, end * h)]
            if self._faces_camera(canvas, face, -end):
                screen = [(-w, belt, sill), (w, belt, sill), (top, tall, edge), (-top, tall, edge)]
                self._window(canvas, screen, 1.0)
                self._quad(canvas, face, self.paint)
                self._end_details(canvas, end * h, near)

    def _end_details(self, canvas: Canvas, b: float, near: bool) -> None:
        w, belt = self.half_width, self.belt
        if near:
            self._quad(canvas, [(-w, 0.25, b), (w, 0.25, b), (w, 0.42, b), (-w, 0.42, b)], (44, 44, 46))
            self._quad(canvas, [(-0.26, 0.5, b), (0.26, 0.5, b), (0.26, 0.62, b), (-0.26, 0.62, b)], (214, 212, 190))
        for side in (-1, 1):
            inner, outer = side * w * 0.62, side * w * 0.96
            low, high = belt * 0.66, belt * 0.85
            self._quad(canvas, [(inner, low, b), (outer, low, b), (outer, high, b), (inner, high, b)], self.lamp)

    def _window(self, canvas: Canvas, frame: list[Point], share: float) -> None:
        """A pane that fills most of `frame`, the rest being painted metal."""
        self._quad(canvas, frame, self.paint, 0.95)
        middle = [sum(axis) / 4 for axis in zip(*frame, strict=True)]
        pane = [tuple(m + (c - m) * 0.84 for c, m in zip(corner, middle, strict=True)) for corner in frame]
        self._quad(canvas, pane, self.glass, share)

    def _wheel(self, canvas: Canvas, a: float, b: float) -> None:
        for radius, color in ((0.33, (26, 26, 28)), (0.17, (128, 128, 130))):
            self._quad(canvas, [(a, 0.33 + radius * up, b + radius * forward) for forward, up in _CIRCLE], color)

    def _quad(self, canvas: Canvas, points: Sequence[Sequence[float]], color: Color, light: float = 1.0) -> None:
        canvas.polygon([self.at(*point) for point in points], color, CAR, light)

    def _faces_camera(self, canvas: Canvas, face: list[Point], winding: int) -> bool:
        flat = canvas.street.project_all([self.at(*point) for point in face])
        area = sum(p[0] * q[1] - q[0] * p[1] for p, q in zip(flat, flat[1:] + flat[:1], strict=True))
        return area * winding < 0


def person(rng: np.random.Generator, x: float, z: float) -> Thing:
    tall = rng.uniform(1.55, 1.9) if rng.random() < 0.85 else rng.uniform(1.0, 1.4)
    wide, stride, lean = 0.13 * tall, rng.uniform(-0.03, 0.1) * tall, rng.normal(0, 0.03)
    skin = vary(rng, [(214, 170, 140), (150, 108, 82), (96, 68, 54)][rng.integers(3)], 10)
    top, legs = (tuple(rng.uniform(20, 215, 3)) for _ in range(2))
    if rng.random() < 0.5:
        top, legs = vary(rng, (60, 62, 70), 25), vary(rng, (50, 54, 72), 20)
    coat = rng.uniform(0.35, 0.5) * tall

    def draw(canvas: Canvas) -> None:
        light = canvas.street.face_light(0)
        hip, neck = 0.5 * tall, 0.84 * tall
        for side, foot in ((-1, -stride), (1, stride)):
            near, far = x + side * wide * 0.15, x + side * wide * 0.8
            leg = [(near, hip, z), (far, hip, z), (far + foot, 0.0, z), (far + foot - side * wide * 0.6, 0.0, z)]
            canvas.polygon(leg, legs, PERSON, light)
        chest = x + lean
        arms = [(chest - wide * 1.35, 0.47 * tall, z), (chest - wide * 1.05, neck, z),
                (chest + wide * 1.05, neck, z), (chest + wide * 1.35, 0.47 * tall, z)]  # fmt: skip
        canvas.polygon(arms, top, PERSON, light * 0.86)
        torso = [(x - wide * 0.9, coat, z), (chest - wide, neck, z), (chest + wide, neck, z), (x + wide * 0.9, coat, z)]
        canvas.polygon(torso, top, PERSON, light)
        canvas.disc(chest, 0.92 * tall, z, 0.07 * tall, skin, PERSON)

    return Thing(z, draw, footprint=(x - wide, x + wide, z - 0.15, z + 0.15), height=tall)


def lamp(rng: np.random.Generator, x: float, z: float, tall: float, arm: float) -> Thing:
    color = vary(rng, [(92, 96, 98), (50, 58, 52), (150, 150, 148), (110, 88, 66)][rng.integers(4)], 12)
    thick = rng.uniform(0.13, 0.24)

    def draw(canvas: Canvas) -> None:
        canvas.panel(x, thick / 2, (0.0, tall), z, color, POLE)
        if arm:
            bracket = [(x, tall - 0.14, z), (x, tall, z), (x + arm, tall + 0.25, z), (x + arm, tall, z)]
            canvas.polygon(bracket, color, POLE)
        else:
            canvas.disc(x, tall, z, 0.22, (226, 222, 200), POLE)

    return Thing(z, draw, footprint=(x - 0.1, x + 0.1, z - 0.1, z + 0.1), height=tall)


def sign(rng: np.random.Generator, x: float, z: float) -> Thing:
    kind = str(rng.choice(["disc", "triangle", "board", "diamond", "lights"], p=[0.28, 0.2, 0.25, 0.07, 0.2]))
    tall, size = rng.uniform(2.1, 3.2), rng.uniform(0.3, 0.48)
    metal = vary(rng, (128, 130, 132), 22)
    rim, face = [((188, 36, 40), (226, 224, 220)), ((36, 78, 168), (44, 92, 186)), ((176, 34, 38), (180, 40, 44)),
                 ((128, 130, 130), (142, 144, 144)), ((226, 226, 220), (34, 110, 74))][rng.integers(5)]  # fmt: skip
    rim_color, face_color = vary(rng, rim, 10), vary(rng, face, 10)
    lit = int(rng.integers(3))
    wide = size * rng.uniform(1.0, 2.2)

    def draw(canvas: Canvas) -> None:
        canvas.panel(x, 0.045 if kind != "lights" else 0.07, (0.0, tall), z, metal, POLE)
        if kind == "disc":
            canvas.disc(x, tall, z, size, rim_color, SIGN)
            canvas.disc(x, tall, z, size * 0.7, face_color, SIGN)
        elif kind == "lights":
            canvas.panel(x, 0.2, (tall - 0.1, tall + 0.8), z, (34, 36, 36), SIGN)
            canvas.disc(x, tall + 0.1 + 0.26 * lit, z, 0.12, [(60, 220, 120), (250, 190, 60), (250, 70, 50)][lit], SIGN)
        else:
            half = wide / size
            outline = {
                "triangle": [(-1.1, -0.8), (0.0, 1.1), (1.1, -0.8)],
                "diamond": [(-1.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.0, -1.0)],
                "board": [(-half, -0.8), (-half, 0.8), (half, 0.8), (half, -0.8)],
            }[kind]
            for share, color in ((1.0, rim_color), (0.72, face_color)):
                corners = [(x + a * size * share, tall + b * size * share, z) for a, b in outline]
                canvas.polygon(corners, color, SIGN)

    return Thing(z, draw, footprint=(x - 0.05, x + 0.05, z - 0.05, z + 0.05), height=tall)


def bollard(rng: np.random.Generator, x: float, z: float) -> Thing:
    color = vary(rng, (110, 108, 104), 30)
    return Thing(
        z, lambda canvas: canvas.panel(x, 0.07, (0.0, 0.95), z, color, POLE), (x - 0.1, x + 0.1, z - 0.1, z + 0.1), 0.95
    )


def litter_bin(rng: np.random.Generator, x: float, z: float) -> Thing:
    """A bin or box: street furniture that none of the classes covers, hence void."""
    color, tall, wide = vary(rng, (70, 86, 74), 35), rng.uniform(0.8, 1.3), rng.uniform(0.5, 1.0)
    footprint = (x - wide / 2, x + wide / 2, z, z + 0.5)
    return Thing(z, lambda canvas: canvas.panel(x, wide / 2, (0.0, tall), z, color, VOID), footprint, tall)
