import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import v2

from kaseg import KASegImageProcessor
from kaseg.data.transforms import IMAGENET_MEAN, IMAGENET_STD, EvalTransform, TrainTransform

NO_CHANGE = {"image_mean": (0.0, 0.0, 0.0), "image_std": (1.0, 1.0, 1.0)}  # pixel_values = pixel / 255


def _encoded_sample(height: int, width: int, block: int, seed: int = 0) -> tuple[Image.Image, Image.Image]:
    """A mask of flat blocks, and an image whose red is the label and whose green and blue tell the position."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 20, (-(-height // block), -(-width // block))).astype(np.uint8)
    label = np.kron(blocks, np.ones((block, block), np.uint8))[:height, :width]
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([label * 12, rows * 255 // max(1, height - 1), columns * 255 // max(1, width - 1)], -1)
    return Image.fromarray(image.astype(np.uint8)), Image.fromarray(label)


def _resizing(shortest_edge: int, **size: int) -> KASegImageProcessor:
    return KASegImageProcessor(do_resize=True, size={"shortest_edge": shortest_edge, **size}, **NO_CHANGE)


def _noise_sample(height: int, width: int) -> tuple[Image.Image, Image.Image]:
    rng = np.random.default_rng(3)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8))
    label = rng.integers(0, 20, (height, width)).astype(np.uint8)
    label[:5] = 255
    return image, Image.fromarray(label)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"crop_size": (40, 48)}, "7bc618b35c0c62f0"),
        ({"crop_size": (40, 48), "scale_step": 0.25}, "1d5c104a4c9a98f1"),
        ({"crop_size": 150, "horizontal_flip": 1.0}, "e270d3ed149eff09"),
    ],
)
def test_draws_and_pixels_never_change(settings, expected):
    """Checksums of the first version: a resumed run must see what it would have seen, whatever is added here."""
    image, label = _noise_sample(61, 83)
    transform = TrainTransform(**settings, **NO_CHANGE)
    torch.manual_seed(11)
    digest = hashlib.sha256()
    for _ in range(8):
        sample = transform(image, label)
        digest.update((sample["pixel_values"] * 255).round().to(torch.uint8).numpy().tobytes())
        digest.update(sample["labels"].to(torch.uint8).numpy().tobytes())
    digest.update(np.float32(torch.rand(()).item()).tobytes())
    assert digest.hexdigest()[:16] == expected


def _flat(labels: np.ndarray, reach: int) -> np.ndarray:
    """Pixels whose neighbors within `reach` all have their label; what lies beyond the crop is not known."""
    padded = np.pad(labels, reach, constant_values=254)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1, 2 * reach + 1))
    return (windows == labels[..., None, None]).all((-1, -2))


def _agreeing_pixels(sample: dict[str, torch.Tensor], reach: int = 3) -> int:
    """How many pixels of a sample of `_encoded_sample` lie away from borders; all of them must hold their own label."""
    labels = sample["labels"].numpy()
    inside = _flat(labels, reach) & (labels != 255)
    red = F.interpolate(sample["pixel_values"][None, :1], labels.shape, mode="nearest-exact")[0, 0].numpy() * 255
    np.testing.assert_allclose(red[inside], labels[inside] * 12, atol=1e-3)
    return int(inside.sum())


GEOMETRIES: list[dict] = [
    {},
    {"cat_max_ratio": 0.5},
    {"short_edge": 80},
    {"short_edge": 80, "max_long_edge": 90},
    {"scale_step": 0.25, "horizontal_flip": 1.0, "cat_max_ratio": 0.75},
    {"scale_step": 0.5, "short_edge": 150, "max_long_edge": 200, "cat_max_ratio": 0.3},
]


@pytest.mark.parametrize("size", [(33, 57), (97, 131), (240, 321)])
@pytest.mark.parametrize("settings", GEOMETRIES)
def test_every_combination_keeps_picture_and_mask_together(settings, size):
    image, label = _encoded_sample(*size, block=max(14, min(size) // 6))
    for crop in ((64, 80), (129, 33), (301, 407)):
        transform = TrainTransform(crop_size=crop, **settings, **NO_CHANGE)
        checked = 0
        for seed in range(2):
            torch.manual_seed(seed)
            checked += _agreeing_pixels(transform(image, label))
        assert checked > 250


@pytest.mark.parametrize("size", [(33, 57), (97, 131), (240, 321)])
@pytest.mark.parametrize(
    "settings",
    [
        {"size_divisor": 32},
        {"size_divisor": 50, "image_processor": _resizing(61)},
        {"size_divisor": 16, "image_processor": _resizing(200, longest_edge=211)},
        {"image_processor": _resizing(300)},
    ],
)
def test_evaluation_keeps_picture_and_mask_together(settings, size):
    image, label = _encoded_sample(*size, block=max(14, min(size) // 6))
    sample = EvalTransform(**settings, **NO_CHANGE)(image, label)
    shrunk = -(-sample["labels"].shape[0] // sample["pixel_values"].shape[1])  # pixels of the mask to one of the image
    assert _agreeing_pixels(sample, reach=3 * shrunk) > 200


def _numpy_nearest(label: np.ndarray, scaled: tuple[int, int]) -> np.ndarray:
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
        for old, new in zip(label.shape, scaled, strict=True)
    )
    return label[np.ix_(rows, columns)]


@pytest.mark.parametrize("scale", [0.5, 0.73, 1.0, 1.37, 2.0])
def test_window_equals_resizing_everything_and_cropping(scale):
    """Pinned to torchvision's resize of the whole image and to nearest-exact sampling written in numpy."""
    rng = np.random.default_rng(1)
    height, width, crop = 61, 83, (40, 48)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8))
    label = Image.fromarray(rng.integers(0, 20, (height, width)).astype(np.uint8))
    scaled = (round(height * scale), round(width * scale))
    whole = v2.functional.resize(v2.functional.pil_to_tensor(image).double(), list(scaled), antialias=True).numpy()
    whole_label = _numpy_nearest(np.asarray(label), scaled)
    transform = TrainTransform(crop_size=crop, scale_range=(scale, scale), horizontal_flip=0.0, **NO_CHANGE)
    out = min(crop[0], scaled[0]), min(crop[1], scaled[1])
    starts = set()
    for seed in range(12):
        torch.manual_seed(seed)
        sample = transform(image, label)
        labels = sample["labels"].numpy()[: out[0], : out[1]]
        windows = np.lib.stride_tricks.sliding_window_view(whole_label, out)
        corner = (windows[..., :3, :3] == labels[:3, :3]).all((-1, -2))
        matches = [start for start in np.argwhere(corner).tolist() if (windows[tuple(start)] == labels).all()]
        assert len(matches) == 1, "the mask is not a window of the resized mask"
        top, left = matches[0]
        pixels = sample["pixel_values"].numpy()[:, : out[0], : out[1]] * 255
        expected = whole[:, top : top + out[0], left : left + out[1]]
        assert np.abs(pixels - expected).max() <= 1.01  # Pillow rounds to 8 bits twice
        starts.add((top, left))
    assert len(starts) > (8 if scaled[0] > crop[0] + 3 else 0)


def test_every_window_can_be_drawn():
    label = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4))
    transform = TrainTransform(2, (1.0, 1.0), horizontal_flip=0.0)
    torch.manual_seed(0)
    corners = {transform(Image.new("RGB", (4, 4)), label)["labels"][0, 0].item() for _ in range(150)}
    assert corners == {0, 1, 2, 4, 5, 6, 8, 9, 10}


def test_mask_borders_agree_with_the_picture_to_half_a_pixel():
    """A vertical edge lies at the same place in both: the image's 50 % crossing is the mask's change of label."""
    stripes = np.zeros((40, 200), np.uint8)
    stripes[:, 100:] = 1
    image, label = Image.fromarray(np.stack([stripes * 255] * 3, -1)), Image.fromarray(stripes)
    for scale in np.linspace(0.5, 2.0, 31):
        transform = TrainTransform((10, 420), (float(scale), float(scale)), horizontal_flip=0.0, **NO_CHANGE)
        sample = transform(image, label)
        inside = sample["labels"][0] != 255
        values = sample["pixel_values"][0, 0][inside].numpy()
        labels = sample["labels"][0][inside].numpy()
        undecided = np.abs(values - 0.5) < 0.02
        np.testing.assert_array_equal((values > 0.5)[~undecided], labels[~undecided] == 1)
        assert undecided.sum() <= 1


@pytest.mark.parametrize(
    "settings",
    [{}, {"image_mean": (0.5, 0.5, 0.5)}, {"brightness": 0.5, "contrast": 0.5}, {"photometric_distortion": True}],
)
def test_padding_is_the_mean_and_void(settings):
    image, label = _encoded_sample(30, 50, block=10)
    transform = TrainTransform(100, (0.5, 1.5), horizontal_flip=0.0, **settings)
    for seed in range(8):
        torch.manual_seed(seed)
        sample = transform(image, label)
        void = sample["labels"] == 255
        rows, columns = (~void).any(1).sum(), (~void).any(0).sum()
        assert (~void[:rows, :columns]).all() and void[rows:].all() and void[:, columns:].all()
        assert (sample["pixel_values"][:, void] == 0).all()
        assert 15 <= rows <= 45 and 25 <= columns <= 75


def _naive_redrawn_window(label: np.ndarray, crop: int, ratio: float) -> tuple[np.ndarray, int]:
    """The rule of mmsegmentation's random crop in numpy, and how many windows were drawn."""
    torch.empty(()).uniform_()  # the scale
    drawn = 0
    while drawn < 11:
        drawn += 1
        left, top = (int(torch.randint(length - crop + 1, ())) for length in label.shape[::-1])
        window = label[top : top + crop, left : left + crop]
        values, counts = np.unique(window, return_counts=True)
        counts = counts[values != 255]
        if len(counts) > 1 and counts.max() / counts.sum() < ratio:
            break
    return window, drawn


def test_windows_of_one_class_are_drawn_again():
    label = np.zeros((60, 80), np.uint8)
    label[20:32, 30:42], label[:, :8], label[50:] = 3, 255, 7
    transform = TrainTransform(16, (1.0, 1.0), horizontal_flip=0.0, cat_max_ratio=0.75)
    counts = []
    for seed in range(60):
        torch.manual_seed(seed)
        sample = transform(Image.new("RGB", (80, 60)), Image.fromarray(label))
        torch.manual_seed(seed)
        expected, drawn = _naive_redrawn_window(label, 16, 0.75)
        np.testing.assert_array_equal(sample["labels"].numpy(), expected)
        counts.append(drawn)
    assert min(counts) == 1 and max(counts) > 6, "the example must exercise the rule"


@pytest.mark.parametrize("fill", [255, 4])
def test_drawing_again_ends(fill):
    for size in ((80, 60), (10, 12)):  # the second has one window only
        sample = TrainTransform(16, cat_max_ratio=0.5)(Image.new("RGB", size), Image.new("L", size, fill))
        assert set(sample["labels"].unique().tolist()) <= {fill, 255}


def test_short_edge_is_what_scale_1_stands_for():
    image, label = Image.new("RGB", (100, 50)), Image.new("L", (100, 50))
    for settings, expected in [
        ({"short_edge": 100}, (100, 200)),
        ({"short_edge": 100, "max_long_edge": 150}, (75, 150)),
        ({"short_edge": 25, "max_long_edge": 150}, (25, 50)),
        ({"short_edge": 100, "scale_range": (0.5, 0.5)}, (50, 100)),
    ]:
        transform = TrainTransform(400, **{"scale_range": (1.0, 1.0), "horizontal_flip": 0.0, **settings})
        inside = transform(image, label)["labels"] == 0
        assert (int(inside.any(1).sum()), int(inside.any(0).sum())) == expected, settings


def test_normalization():
    image, label = _encoded_sample(20, 30, block=10)
    same = TrainTransform((20, 30), (1.0, 1.0), horizontal_flip=0.0)(image, label)
    evaluated = EvalTransform()(image, label)
    pixels = np.asarray(image, dtype=np.float64).transpose(2, 0, 1) / 255
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    for sample in (same, evaluated):
        np.testing.assert_allclose(sample["pixel_values"].numpy(), (pixels - mean) / std, atol=2e-6)
        assert sample["pixel_values"].is_contiguous()
        np.testing.assert_array_equal(sample["labels"].numpy(), np.asarray(label))
        assert sample["labels"].dtype == torch.int64


def test_flip():
    image, label = _encoded_sample(20, 30, block=7)
    plain = TrainTransform((20, 30), (1.0, 1.0), horizontal_flip=0.0)(image, label)
    flipped = TrainTransform((20, 30), (1.0, 1.0), horizontal_flip=1.0)(image, label)
    assert torch.equal(flipped["pixel_values"], plain["pixel_values"].flip(-1))
    assert torch.equal(flipped["labels"], plain["labels"].flip(-1))
    half = TrainTransform((20, 30), (1.0, 1.0))
    torch.manual_seed(0)
    flips = sum(torch.equal(half(image, label)["labels"], flipped["labels"]) for _ in range(200))
    assert 70 < flips < 130


def _drawn_scales(transform: TrainTransform, count: int) -> np.ndarray:
    image, label = Image.new("RGB", (100, 1)), Image.new("L", (100, 1))
    torch.manual_seed(0)
    return np.array([(transform(image, label)["labels"][0] != 255).sum() for _ in range(count)]) / 100


def test_scales_are_uniform_or_in_steps():
    scales = _drawn_scales(TrainTransform((2, 201), (0.5, 2.0)), 300)
    assert scales.min() < 0.53 and scales.max() > 1.97
    counts, _ = np.histogram(scales, bins=3, range=(0.5, 2.0))
    assert (abs(counts - 100) < 35).all()
    steps = _drawn_scales(TrainTransform((2, 201), (0.5, 2.0), scale_step=0.25), 150)
    assert set(steps.tolist()) == {0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0}


def test_color_jitter_changes_the_picture_only():
    image, label = _encoded_sample(20, 30, block=7)
    plain = TrainTransform((20, 30), (1.0, 1.0), horizontal_flip=0.0)(image, label)
    for name in ("brightness", "contrast", "saturation", "hue"):
        transform = TrainTransform((20, 30), (1.0, 1.0), horizontal_flip=0.0, **{name: 0.4})
        torch.manual_seed(1)
        sample = transform(image, label)
        assert torch.equal(sample["labels"], plain["labels"])
        assert not torch.equal(sample["pixel_values"], plain["pixel_values"]), name


def test_colors_never_change_what_is_cut_out():
    """The same draws of geometry with and without distortion: equal masks, and one new color for each old one."""
    image, label = _noise_sample(61, 83)
    settings = {"crop_size": (40, 48), "cat_max_ratio": 0.1, **NO_CHANGE}
    plain, distorted = TrainTransform(**settings), TrainTransform(**settings, photometric_distortion=True)
    changed = 0
    for seed in range(20):
        samples = []
        for transform in (plain, distorted):
            torch.manual_seed(seed)
            samples.append(transform(image, label))
        assert torch.equal(samples[0]["labels"], samples[1]["labels"])
        old, new = (np.rint(s["pixel_values"].numpy() * 255).reshape(3, -1).T.astype(int) for s in samples)
        void = (samples[0]["pixel_values"].sum(0) == 0).flatten().numpy()  # padding
        pairs = np.unique(np.hstack([old, new])[~void], axis=0)
        assert len(np.unique(pairs[:, :3], axis=0)) == len(pairs)
        changed += len(pairs) != (pairs[:, :3] == pairs[:, 3:]).all(1).sum()
    assert 15 <= changed <= 20  # 1 in 16 calls does nothing


def test_tiny_pictures():
    image, label = Image.new("RGB", (1, 1), (255, 0, 0)), Image.new("L", (1, 1), 4)
    sample = TrainTransform(8, (0.1, 0.3), horizontal_flip=0.0)(image, label)
    assert sample["labels"][0, 0] == 4 and (sample["labels"] == 4).sum() == 1


def test_eval_resizes_the_picture_only():
    image, label = _encoded_sample(60, 81, block=10)
    sample = EvalTransform(image_processor=_resizing(30))(image, label)
    assert sample["pixel_values"].shape == (3, 30, 40) and sample["labels"].shape == (60, 81)
    limited = EvalTransform(image_processor=_resizing(30, longest_edge=36))(image, label)
    assert limited["pixel_values"].shape == (3, 27, 36)
    enlarged = EvalTransform(image_processor=_resizing(90))
    portrait = enlarged(image.rotate(90, expand=True), label.rotate(90, expand=True))
    assert portrait["pixel_values"].shape == (3, 121, 90)  # 121.5, cut off as transformers does


def test_eval_padding_is_the_mean_and_void():
    image, label = _encoded_sample(60, 81, block=10)
    plain, padded = EvalTransform()(image, label), EvalTransform(size_divisor=32)(image, label)
    assert padded["pixel_values"].shape == (3, 64, 96) and padded["labels"].shape == (64, 96)
    for name, outside in (("pixel_values", 0), ("labels", 255)):
        assert torch.equal(padded[name][..., :60, :81], plain[name])
        assert (padded[name][..., 60:, :] == outside).all() and (padded[name][..., 81:] == outside).all()
    exact = EvalTransform(size_divisor=20)(*_encoded_sample(60, 80, block=10))
    assert exact["pixel_values"].shape == (3, 60, 80)


@pytest.mark.parametrize("height", [61, 90, 117])
@pytest.mark.parametrize("size", [30, 77, 200])
def test_eval_padding_of_a_resized_picture_fits_to_half_a_pixel_of_the_mask(height, size):
    image, label = _encoded_sample(height, 131, block=10)
    processor = _resizing(size)
    resized = EvalTransform(image_processor=processor)(image, label)["pixel_values"].shape[1:]
    sample = EvalTransform(image_processor=processor, size_divisor=32)(image, label)
    for axis, (content, whole) in enumerate(zip((height, 131), sample["labels"].shape, strict=True)):
        image = sample["pixel_values"].shape[1 + axis]
        assert image % 32 == 0 and 0 <= image - resized[axis] < 32
        # Where the image's content ends, in pixels of the mask, once scores of the whole are resized to the mask.
        assert abs(resized[axis] * whole / image - content) <= 0.5
    assert (sample["labels"] != 255).sum() == height * 131


@pytest.mark.parametrize("transform", [TrainTransform(32), EvalTransform()])
def test_what_is_no_image_and_its_mask_is_refused(transform):
    image, label = Image.new("RGB", (40, 30)), Image.new("L", (40, 30))
    for wrong, message in (
        ((image, Image.new("L", (40, 31))), "image is 40x30 and its label mask 40x31"),
        ((Image.new("F", (40, 30)), label), "mode 'F' has no fixed range"),
        ((image, image), "label mask has mode 'RGB'; it needs one class index per pixel"),
    ):
        with pytest.raises(ValueError, match=message):
            transform(*wrong)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (TrainTransform, {"crop_size": 0}, "crop_size"),
        (TrainTransform, {"scale_range": (2.0, 0.5)}, "scale_range"),
        (TrainTransform, {"scale_range": (0.0, 0.5)}, "scale_range"),
        (TrainTransform, {"scale_step": 0.0}, "scale_step"),
        (TrainTransform, {"horizontal_flip": 1.5}, "horizontal_flip"),
        (TrainTransform, {"image_std": (1.0, 0.0, 1.0)}, "image_std"),
        (TrainTransform, {"image_mean": (0.5,)}, "image_mean"),
        (TrainTransform, {"cat_max_ratio": 75}, "cat_max_ratio is 75"),
        (TrainTransform, {"cat_max_ratio": 0.0}, "cat_max_ratio is 0.0"),
        (TrainTransform, {"short_edge": 0}, "short_edge is 0"),
        (TrainTransform, {"short_edge": 200, "max_long_edge": 100}, "max_long_edge is 100 and short_edge 200"),
        (EvalTransform, {"size_divisor": 0}, "size_divisor is 0"),
    ],
)
def test_impossible_settings(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(**arguments)
