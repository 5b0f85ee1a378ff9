"""Street scenes drawn from random numbers, with exact labels: a dataset that needs no files.

A scene is laid out in meters on a road that may bend, seen through a pinhole camera, and painted from far to near into
the image and the label map with the same masks, so that every label is exact to the pixel. Weather, exposure, noise
and colors that classes share keep color alone from giving the classes away.
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from kaseg.data.scene_objects import bollard, building, car, crown, hedge, lamp, litter_bin, person, sign, tree
from kaseg.data.scene_street import (
    BUILDING,
    PAVEMENT,
    ROAD,
    SKY,
    TREE,
    VOID,
    Canvas,
    Street,
    Thing,
    smooth_noise,
    vary,
)

# Amplitude (8-bit steps) of the grain of each class's surface: leaves are rough, skies and signs smooth.
_GRAIN = np.zeros(256, dtype=np.float32)
_GRAIN[:9] = (1.0, 7.0, 8.0, 6.0, 16.0, 3.0, 5.0, 3.0, 2.0)
_GRAIN[VOID] = 3.0


def render_scene(seed: int, index: int, height: int = 192, width: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene. A pure function of its arguments (and of the versions of numpy and Pillow).

    Args:
        seed, index: Numbers of the series of scenes and of the scene in it, at least 0.
        height, width: In pixels, at least 16.

    Returns:
        The image, uint8 (height, width, 3), RGB; and the labels, uint8 (height, width), 0..8 in the order of
        `kaseg.data.SCENES` (sky, road, pavement, building, tree, car, person, pole, sign) or 255 (void: the camera
        car's bonnet and street furniture without a class).

    Raises:
        ValueError: if the size is below 16 x 16, or `seed` or `index` is negative.
    """
    if height < 16 or width < 16:
        raise ValueError(f"A scene needs at least 16 x 16 pixels, got height={height}, width={width}.")
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got seed={seed}, index={index}.")
    rng = np.random.default_rng([seed, index])
    street = Street(rng, height, width)
    objects = _lay_out(rng, street)
    image, labels = _sky_and_skyline(rng, street)
    _paint_ground(rng, street, image, labels, _shadow_map(rng, street, objects))
    canvas = Canvas(street, image, labels)
    for thing in sorted(objects, key=lambda thing: -thing.depth):
        thing.draw(canvas)
    if rng.random() < 0.25:
        _draw_bonnet(rng, canvas)
    return _develop(rng, street, canvas)


def _lay_out(rng: np.random.Generator, street: Street) -> list[Thing]:
    things: list[Thing] = []
    crowns = [crown(rng, conifer=rng.random() < 0.15) for _ in range(5)]
    for side in (-1, 1):
        things += _building_row(rng, street, side, crowns)
        things += _street_side(rng, street, side, crowns)
    things += _traffic(rng, street)
    left, right = street.walls
    for _ in range(int(rng.integers(3, 10))):
        z = 4 + 26 * rng.random() ** 1.3
        on_road = rng.random() < 0.15
        side = int(rng.choice([-1, 1]))
        kerb, wall = (street.road[0], left) if side < 0 else (street.road[1], right)
        x = rng.uniform(*street.road) if on_road else kerb + (wall - kerb) * rng.uniform(0.1, 0.9)
        things.append(person(rng, x, z))
    return things


def _building_row(rng: np.random.Generator, street: Street, side: int, crowns: list[np.ndarray]) -> list[Thing]:
    things: list[Thing] = []
    gap_share, tall = rng.uniform(0.05, 0.5), rng.uniform(6, 17)
    z = rng.uniform(-12, 3)
    while z < 95:
        length = rng.uniform(7, 24)
        end = z + length
        setback = street.walls[side > 0] + side * rng.uniform(0, 1.5)
        if z < street.junction + 9 and end > street.junction - 1:
            z = street.junction + 9 + rng.uniform(0, 2)
            continue
        if rng.random() < gap_share:
            for _ in range(int(rng.integers(1, 4))):
                where = max(rng.uniform(z, end), 4.0)
                away = setback + side * rng.uniform(1, 7)
                things.append(tree(rng, away, where, rng.uniform(3, 9), crowns))
            if rng.random() < 0.5 and z > 3:
                things.append(hedge(rng, setback, side, z, end))
        elif end > 2:
            things.append(building(rng, street, setback, side, max(z, 1.2), end, tall * rng.uniform(0.6, 1.4)))
        z = end + (rng.uniform(0.5, 4) if rng.random() < 0.25 else 0.0)
    return things


def _street_side(rng: np.random.Generator, street: Street, side: int, crowns: list[np.ndarray]) -> list[Thing]:
    """Trees, lamps, signs, bollards, bins and parked cars along one kerb."""
    things: list[Thing] = []
    kerb = street.road[side > 0]

    def clear(z: float, margin: float = 1.0) -> bool:
        return not street.junction - margin < z < street.junction + 8 + margin

    def along(start: float, step: float, end: float) -> list[float]:
        places = np.arange(start, end, step)
        return [z for z in (places + rng.uniform(-0.2, 0.2, places.size) * step).tolist() if z > 3 and clear(z)]

    if rng.random() < 0.6:
        tall = rng.uniform(4, 9)
        places = along(rng.uniform(4, 14), rng.uniform(7, 15), 60)
        things += [tree(rng, kerb + side * 1.2, z, tall * rng.uniform(0.8, 1.2), crowns) for z in places]
    if rng.random() < 0.75:
        tall, arm = rng.uniform(4.5, 8), rng.uniform(0.8, 2.2) * (rng.random() < 0.6)
        places = along(rng.uniform(5, 16), rng.uniform(13, 24), 75)
        things += [lamp(rng, kerb + side * 0.6, z, tall, -side * arm) for z in places]
    things += [sign(rng, kerb + side * rng.uniform(0.3, 0.9), z) for z in along(rng.uniform(4.5, 15), 11, 38)]
    if rng.random() < 0.25:
        places = along(rng.uniform(4, 7), rng.uniform(1.5, 3), 25)
        things += [bollard(rng, kerb + side * 0.35, z) for z in places]
    if rng.random() < 0.3:
        things.append(litter_bin(rng, kerb + side * rng.uniform(1, 2), rng.uniform(5, 15)))
    inner = street.lanes[-1] - 3.2 if side < 0 else street.lanes[0] + 3.2
    if abs(kerb - inner) > 1.8 and rng.random() < 0.85:
        for z in along(rng.uniform(4, 9), rng.uniform(5.6, 9), 60):
            if rng.random() < 0.75 and clear(z, 6.0):
                things.append(car(rng, street, kerb - side * 1.1, z, turned=rng.random() < 0.5))
    return things


def _traffic(rng: np.random.Generator, street: Street) -> list[Thing]:
    things = []
    own = street.lanes[0] + 1.6
    for lane, turned, chance in [(own, False, 0.7), *((line - 1.6, True, 0.6) for line in street.lanes)]:
        z = rng.uniform(6, 22)
        while z < 70:
            if rng.random() < chance:
                things.append(car(rng, street, lane + rng.uniform(-0.3, 0.3), z, turned))
            z += rng.uniform(8, 30)
    if math.isfinite(street.junction) and rng.random() < 0.5:
        z = street.junction + rng.choice([2.2, 5.6])
        things.append(car(rng, street, rng.uniform(*street.walls), z, turned=False, across=True))
    return things


def _color(values: Sequence[float]) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)


def _sky_and_skyline(rng: np.random.Generator, street: Street) -> tuple[np.ndarray, np.ndarray]:
    """Everything down to the horizon; the ground below it is left black."""
    width, high = street.width, min(max(math.ceil(street.horizon), 1), street.height)
    zenith = vary(rng, {"sun": (88, 140, 214), "overcast": (172, 177, 184), "dusk": (62, 74, 112)}[street.weather], 25)
    low = vary(rng, street.haze, 14)
    reach = max(street.horizon * rng.uniform(0.8, 1.3), 1.0)
    down = np.clip(np.arange(high, dtype=np.float32) / reach, 0, 1)[:, None, None] ** rng.uniform(0.6, 1.4)
    sky = _color(zenith) * (1 - down) + _color(low) * down
    clouds = smooth_noise(rng, high, width, 4, 5) * 0.65 + smooth_noise(rng, high, width, 10, 14) * 0.35
    cover = np.clip((clouds - rng.uniform(0.35, 0.75)) * rng.uniform(2, 6), 0, 1)[..., None] * rng.uniform(0.3, 0.95)
    cloud = {"sun": (246, 246, 248), "overcast": (206, 208, 212), "dusk": (168, 128, 128)}[street.weather]
    image = np.zeros((street.height, width, 3), dtype=np.uint8)
    labels = np.full((street.height, width), SKY, dtype=np.uint8)
    image[:high] = (sky + (_color(cloud) - sky) * cover).clip(0, 255)
    above = street.horizon - np.arange(high)[:, None]  # height over the horizon, in pixels
    if rng.random() < 0.75:  # distant houses
        steps = np.repeat(rng.uniform(-0.3, 1.0, 40), rng.integers(3, 14, 40) * width // 256 + 1)
        mask = above < np.resize(steps, width).clip(0) * 0.09 * street.height
        image[:high][mask] = street.tint(vary(rng, (140, 132, 126), 30), 150)
        labels[:high][mask] = BUILDING
    if rng.random() < 0.75:  # distant trees
        line = (smooth_noise(rng, 1, width, 24, 1) - rng.uniform(0.2, 0.6)).clip(0)
        mask = above < line * 0.14 * street.height
        image[:high][mask] = street.tint(vary(rng, (78, 96, 62), 20), 130)
        labels[:high][mask] = TREE
    return image, labels


def _paint_ground(
    rng: np.random.Generator, street: Street, image: np.ndarray, labels: np.ndarray, shadow: np.ndarray
) -> None:
    first = min(max(math.ceil(street.horizon), 0), street.height)
    rows = np.arange(first, street.height, dtype=np.float32) + np.float32(0.5)
    z = np.minimum(street.focal * street.eye / (rows - street.horizon).clip(0.25), 300.0)[:, None].astype(np.float32)
    columns = np.arange(street.width, dtype=np.float32)[None] + np.float32(0.5)
    x = (columns - street.center) * (z / street.focal) - street.bend * z * z
    left, right = street.road
    crossing = (z > street.junction) & (z < street.junction + 8)
    straight = (x > left) & (x < right)
    on_road = straight | crossing
    kerb = ~crossing & ((np.abs(x - (left - 0.1)) < 0.12) | (np.abs(x - (right + 0.1)) < 0.12))

    gray = rng.uniform(62, 138)
    road = vary(rng, (gray, gray, gray * rng.uniform(0.95, 1.08)), 6)
    paving = vary(rng, [(150, 146, 140), (112, 112, 114), (158, 132, 112), (gray, gray, gray)][rng.integers(4)], 14)
    edge = _color(paving) * rng.uniform(0.75, 1.3)
    palette = np.stack([_color(paving), _color(road), edge]).astype(np.float32) * _color(street.ambient)

    sharp = (12.0 / z).clip(0, 1)  # patterns finer than a pixel fade out with distance
    stains = rng.random((64, 64), dtype=np.float32)
    texture = stains[(z * 0.7).astype(np.int32) & 63, (x * 0.9).astype(np.int32) & 63] * np.float32(
        rng.uniform(0.04, 0.2)
    )
    texture += stains[(z * 6).astype(np.int32) & 63, (x * 7).astype(np.int32) & 63] * (0.14 * sharp)
    tile = np.float32(rng.uniform(0.5, 1.2))
    joints = ((x % tile < 0.07) | (z % tile < 0.07)) & ~on_road
    brightness = 0.9 + texture - joints * (0.18 * sharp)
    brightness *= 1 - shadow[first:] * np.float32(0.5 if street.weather == "sun" else 0.3)
    colors = palette[np.where(kerb, 2, on_road)]
    marks = _road_marks(rng, street, x, z) & straight
    worn = np.float32(rng.uniform(0.55, 0.95))
    colors[marks] = colors[marks] * (1 - worn) + _color(street.ambient) * (222 * worn)

    clear = np.exp(-z / street.haze_depth)
    colors *= (brightness * clear)[..., None]
    colors += (1 - clear)[..., None] * _color(street.haze)
    image[first:] = colors.clip(0, 255)
    labels[first:] = np.where(on_road, ROAD, PAVEMENT)


def _road_marks(rng: np.random.Generator, street: Street, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    marks = np.zeros(x.shape, dtype=bool)
    dash, phase = rng.uniform(4, 9), rng.uniform(0, 9)
    before_junction = z < street.junction - 4
    for line in street.lanes:
        marks |= (np.abs(x - line) < 0.09) & ((z + phase) % dash < dash * 0.5) & before_junction
    if rng.random() < 0.4:
        for line in (street.road[0] + 0.4, street.road[1] - 0.4):
            marks |= (np.abs(x - line) < 0.07) & before_junction
    if math.isfinite(street.junction):
        if rng.random() < 0.6:
            marks |= (z > street.junction - 3.5) & (z < street.junction - 0.6) & (x % 1.1 < 0.55)
        else:
            marks |= (np.abs(z - street.junction + 1.0) < 0.2) & (x > street.lanes[0])
    return marks


def _shadow_map(rng: np.random.Generator, street: Street, objects: list[Thing]) -> np.ndarray:
    """Share of the light that is blocked on the ground, float32 (height, width)."""
    shade = Image.new("L", (street.width, street.height))
    draw = ImageDraw.Draw(shade)
    slant = -street.sun * rng.uniform(0.3, 1.3)  # meters sideways per meter of height
    for thing in objects:
        if thing.footprint is None:
            continue
        x0, x1, z0, z1 = thing.footprint
        contact = [(x0 - 0.1, z0 - 0.15), (x1 + 0.1, z0 - 0.15), (x1 + 0.1, z1), (x0 - 0.1, z1)]
        draw.polygon([street.project((x, 0.0, z)) for x, z in contact], fill=255)
        if street.weather == "sun":
            reach = slant * thing.height
            near, far = (x0, x1) if reach > 0 else (x1, x0)
            cast = [(near, z0), (far + reach, z0), (far + reach, z1), (near, z1)]
            draw.polygon([street.project((x, 0.0, z)) for x, z in cast], fill=225)
    soft = 0.012 if street.weather == "sun" else 0.02
    blurred = shade.filter(ImageFilter.BoxBlur(soft * street.height))
    return np.asarray(blurred, dtype=np.float32) / 255


def _draw_bonnet(rng: np.random.Generator, canvas: Canvas) -> None:
    width, height = canvas.street.width, canvas.street.height
    color = tuple(int(c) for c in np.clip(vary(rng, (70, 72, 78), 40), 0, 255) * canvas.street.ambient[0])
    box = [-0.2 * width, height * rng.uniform(0.9, 0.95), 1.2 * width, 1.4 * height]
    ImageDraw.Draw(canvas.image).ellipse(box, fill=color)
    ImageDraw.Draw(canvas.labels).ellipse(box, fill=VOID)


def _develop(rng: np.random.Generator, street: Street, canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
    """Surface grain, lens blur, exposure, white balance, sensor noise and a mirror image in half of the scenes."""
    labels = np.array(canvas.labels)
    rough = np.float32(rng.uniform(0.5, 1.3) / 74)  # bytes drawn evenly from -128..127 have a deviation of 74
    grain = (_GRAIN * rough)[labels] * rng.integers(-128, 128, labels.shape, dtype=np.int8)
    pixels = (np.asarray(canvas.image) + grain[..., None]).clip(0, 255)
    image = Image.fromarray(pixels.astype(np.uint8))
    image = image.filter(ImageFilter.BoxBlur(rng.uniform(0.0, 0.6) * max(street.height / 192, 0.5)))
    exposure, contrast, gamma = rng.uniform(0.85, 1.35), rng.uniform(0.75, 1.2), rng.uniform(0.85, 1.2)
    balance = exposure * rng.normal(1.0, 0.045, 3)
    level = (np.arange(256) / 255)[None] ** gamma * balance[:, None]
    curve = ((level - 0.45) * contrast + 0.45).clip(0, 1) * 255
    image = image.point(curve.ravel().round().astype(int).tolist())
    noise = rng.integers(-128, 128, (*labels.shape, 3), dtype=np.int8) * np.float32(rng.uniform(0.5, 6) / 74)
    result = (np.asarray(image) + noise).clip(0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        result, labels = np.ascontiguousarray(result[:, ::-1]), np.ascontiguousarray(labels[:, ::-1])
    return result, labels
