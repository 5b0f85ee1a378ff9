from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from kaseg.data.transforms import IMAGENET_MEAN, IMAGENET_STD, EvalTransform, TrainTransform

NO_CHANGE = {"image_mean": (0.0, 0.0, 0.0), "image_std": (1.0, 1.0, 1.0)}  # pixel_values = pixel / 255


def _encoded_sample(height: int, width: int, block: int, seed: int = 0) -> tuple[Image.Image, Image.Image]:
    """A mask of flat blocks, and a picture whose red is the label and whose green and blue tell the position."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 20, (-(-height // block), -(-width // block))).astype(np.uint8)
    label = np.kron(blocks, np.ones((block, block), np.uint8))[:height, :width]
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([label * 12, rows * 255 // max(1, height - 1), columns * 255 // max(1, width - 1)], -1)
    return Image.fromarray(image.astype(np.uint8)), Image.fromarray(label)


def _flat(labels: np.ndarray, reach: int) -> np.ndarray:
    """Pixels whose neighbours within `reach` all have their label; what lies beyond the crop is not known."""
    padded = np.pad(labels, reach, constant_values=254)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1, 2 * reach + 1))
    return (windows == labels[..., None, None]).all((-1, -2))


@pytest.mark.parametrize("crop", [(64, 80), (129, 33), (400, 500)])
@pytest.mark.parametrize("size", [(97, 131), (240, 320)])
def test_picture_and_mask_stay_together(crop, size):
    image, label = _encoded_sample(*size, block=24)
    transform = TrainTransform(crop_size=crop, **NO_CHANGE)
    checked = 0
    for seed in range(6):
        torch.manual_seed(seed)
        sample = transform(image, label)
        labels = sample["labels"].numpy()
        assert sample["pixel_values"].shape == (3, *crop) and sample["pixel_values"].dtype == torch.float32
        assert labels.shape == crop and sample["labels"].dtype == torch.int64
        inside = _flat(labels, 2) & (labels != 255)
        red = sample["pixel_values"][0].numpy() * 255
        np.testing.assert_allclose(red[inside], labels[inside] * 12, atol=1e-3)
        checked += inside.sum()
    assert checked > 5_000


def _numpy_nearest(label: np.ndarray, scaled: tuple[int, int]) -> np.ndarray:
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
        for old, new in zip(label.shape, scaled, strict=True)
    )
    return label[np.ix_(rows, columns)]


@pytest.mark.parametrize("scale", [0.5, 0.73, 1.0, 1.37, 2.0])
def test_window_equals_resizing_everything_and_cropping(scale):
    """Pinned to torchvision's resize of the whole picture and to nearest-exact sampling written in numpy."""
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
    """A vertical edge lies at the same place in both: the picture's 50 % crossing is the mask's change of label."""
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


@pytest.mark.parametrize("mean", [IMAGENET_MEAN, (0.5, 0.5, 0.5)])
def test_padding_is_the_mean_and_void(mean):
    image, label = _encoded_sample(30, 50, block=10)
    transform = TrainTransform(100, (0.5, 1.5), horizontal_flip=0.0, image_mean=mean)
    for seed in range(8):
        torch.manual_seed(seed)
        sample = transform(image, label)
        void = sample["labels"] == 255
        rows, columns = (~void).any(1).sum(), (~void).any(0).sum()
        assert (~void[:rows, :columns]).all() and void[rows:].all() and void[:, columns:].all()
        assert (sample["pixel_values"][:, void] == 0).all()
        assert 15 <= rows <= 45 and 25 <= columns <= 75


def test_void_in_the_mask_survives_and_no_label_is_invented():
    label = np.full((50, 60), 255, np.uint8)
    label[10:30, 20:40] = 3
    label[0, 0] = 7
    sample = TrainTransform(50)(Image.fromarray(np.zeros((50, 60, 3), np.uint8)), Image.fromarray(label))
    assert set(sample["labels"].unique().tolist()) <= {3, 7, 255}


def test_normalisation():
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


def test_colour_jitter_changes_the_picture_only():
    image, label = _encoded_sample(20, 30, block=7)
    plain = TrainTransform((20, 30), (1.0, 1.0), horizontal_flip=0.0)(image, label)
    for name in ("brightness", "contrast", "saturation", "hue"):
        transform = TrainTransform((20, 30), (1.0, 1.0), horizontal_flip=0.0, **{name: 0.4})
        torch.manual_seed(1)
        sample = transform(image, label)
        assert torch.equal(sample["labels"], plain["labels"])
        assert not torch.equal(sample["pixel_values"], plain["pixel_values"]), name


def test_padding_is_not_jittered():
    image, label = _encoded_sample(20, 30, block=7)
    sample = TrainTransform(64, (1.0, 1.0), brightness=0.5, contrast=0.5)(image, label)
    assert (sample["pixel_values"][:, sample["labels"] == 255] == 0).all()


def test_only_torch_decides():
    image, label = _encoded_sample(60, 70, block=7)
    transform = TrainTransform(32, brightness=0.2, hue=0.1)
    results = []
    for seed in (1, 2):
        np.random.seed(seed)
        torch.manual_seed(5)
        results.append(transform(image, label))
    assert torch.equal(results[0]["pixel_values"], results[1]["pixel_values"])


def test_tiny_pictures():
    image, label = Image.new("RGB", (1, 1), (255, 0, 0)), Image.new("L", (1, 1), 4)
    sample = TrainTransform(8, (0.1, 0.3), horizontal_flip=0.0)(image, label)
    assert sample["labels"][0, 0] == 4 and (sample["labels"] == 4).sum() == 1


def test_eval_resizes_the_picture_only():
    image, label = _encoded_sample(60, 81, block=10)
    sample = EvalTransform(size=30)(image, label)
    assert sample["pixel_values"].shape == (3, 30, 40) and sample["labels"].shape == (60, 81)
    portrait = EvalTransform(size=90)(image.rotate(90, expand=True), label.rotate(90, expand=True))
    assert portrait["pixel_values"].shape == (3, 122, 90)


@pytest.mark.parametrize("transform", [TrainTransform(32), EvalTransform()])
def test_different_sizes_are_refused(transform):
    with pytest.raises(ValueError, match="image is 40x30 and its label mask 40x31"):
        transform(Image.new("RGB", (40, 30)), Image.new("L", (40, 31)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop_size": 0}, "crop_size"),
        ({"scale_range": (2.0, 0.5)}, "scale_range"),
        ({"scale_range": (0.0, 0.5)}, "scale_range"),
        ({"scale_step": 0.0}, "scale_step"),
        ({"horizontal_flip": 1.5}, "horizontal_flip"),
        ({"image_std": (1.0, 0.0, 1.0)}, "image_std"),
        ({"image_mean": (0.5,)}, "image_mean"),
    ],
)
def test_impossible_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        TrainTransform(**arguments)
    with pytest.raises(ValueError, match="size is 0"):
        EvalTransform(size=0)
