"""Boundary IoU against a pixel-by-pixel reference and against erosion by scipy."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from kaseg.evaluation.boundary import BoundaryCounts, boundary_distance, near_other_class


def random_regions(shape: tuple[int, int], classes: int, seed: int, void: float = 0.0) -> np.ndarray:
    """Blocky regions, as masks have them, with void blocks."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (-(-shape[0] // 5), -(-shape[1] // 5)))
    coarse[rng.random(coarse.shape) < void] = 255
    return np.kron(coarse, np.ones((5, 5), dtype=np.int64))[: shape[0], : shape[1]]


def naive_boundary(labels: np.ndarray, distance: int, void: int = 255) -> np.ndarray:
    """Pixel by pixel: another class, or the outside, somewhere in the window around it."""
    height, width = labels.shape
    result = np.zeros(labels.shape, dtype=bool)
    for y in range(height):
        for x in range(width):
            for near_y in range(y - distance, y + distance + 1):
                for near_x in range(x - distance, x + distance + 1):
                    outside = not (0 <= near_y < height and 0 <= near_x < width)
                    if outside or labels[near_y, near_x] not in (labels[y, x], void):
                        result[y, x] = labels[y, x] != void
    return result


def naive_scores(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int) -> list[float]:
    scores = []
    for label in range(classes):
        intersection = union = 0
        for prediction, reference in pairs:
            prediction = np.where(reference == 255, 255, prediction)
            distance = max(1, round(0.02 * math.sqrt(reference.shape[0] ** 2 + reference.shape[1] ** 2)))
            first = naive_boundary(reference, distance) & (reference == label)
            second = naive_boundary(prediction, distance) & (prediction == label)
            intersection += (first & second).sum()
            union += (first | second).sum()
        scores.append(intersection / union if union else math.nan)
    return scores


@pytest.mark.parametrize("void", [0.0, 0.3])
def test_scores_of_a_dataset_against_the_naive_loop(void: float) -> None:
    shapes = [(20, 31), (33, 12), (8, 90), (1, 7)]
    pairs = [
        (random_regions(shape, 4, seed), random_regions(shape, 4, seed + 50, void)) for seed, shape in enumerate(shapes)
    ]
    counts = BoundaryCounts(num_labels=6)
    for prediction, reference in pairs:
        counts.update(prediction, reference)
    scores = counts.scores()
    expected = naive_scores(pairs, classes=6)
    assert scores["per_category_boundary_iou"] == pytest.approx(expected, nan_ok=True)
    assert scores["mean_boundary_iou"] == pytest.approx(np.nanmean(expected))
    assert sum(map(math.isnan, expected)) == 2


def test_one_object_against_repeated_erosion() -> None:
    """The official recipe: pad by one pixel of background, erode with a 3x3 square as often as the distance says."""
    mask = random_regions((60, 75), 2, seed=3)
    labels = torch.from_numpy(mask)
    for distance in (1, 2, 3, 7, 12, 46):
        eroded = ndimage.binary_erosion(np.pad(mask == 1, 1), np.ones((3, 3)), iterations=distance)[1:-1, 1:-1]
        near = near_other_class(labels.to(torch.uint8), torch.zeros_like(labels, dtype=torch.bool), distance)
        assert np.array_equal(near.numpy() & (mask == 1), (mask == 1) & ~eroded), distance


def test_distance_is_two_percent_of_the_diagonal() -> None:
    assert [boundary_distance(shape) for shape in [(1024, 2048), (375, 500), (20, 20)]] == [46, 12, 1]


def test_what_is_predicted_at_void_pixels_does_not_matter() -> None:
    reference = random_regions((60, 80), 4, seed=1, void=0.4)
    perfect = reference.copy()
    perfect[reference == 255] = np.random.default_rng(0).integers(0, 4, (reference == 255).sum())
    counts = BoundaryCounts(num_labels=4)
    counts.update(perfect, reference)
    assert counts.scores()["per_category_boundary_iou"] == [1.0] * 4
    before = counts.counts.clone()
    counts.update(perfect, np.full_like(reference, 255))
    assert torch.equal(counts.counts, before)


def test_a_band_of_void_makes_no_boundary_by_itself() -> None:
    reference = np.zeros((100, 100), dtype=np.uint8)
    reference[48:52] = 255
    near = near_other_class(torch.from_numpy(reference), torch.from_numpy(reference == 255), 3)
    assert not near[10:90, 10:90].any()
    reference[52:] = 1  # but what lies behind the band counts as far as the distance reaches
    near = near_other_class(torch.from_numpy(reference), torch.from_numpy(reference == 255), 6)
    assert near[10:90, 50].nonzero().flatten().tolist() == [36, 37, 42, 43]


@pytest.mark.parametrize("classes", [254, 255, 256, 300])
def test_any_number_of_classes(classes: int) -> None:
    reference = random_regions((40, 40), classes, seed=0)
    reference[:5, :5], reference[5:10, :5] = classes - 1, 0
    counts = BoundaryCounts(classes, ignore_index=-1)
    counts.update(reference, reference)
    assert counts.scores()["mean_boundary_iou"] == 1.0
    assert counts.counts[1].sum() == naive_boundary(reference, 1, void=-1).sum()


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        BoundaryCounts(0)
    with pytest.raises(ValueError, match=r"\(2, 3\) and references \(3, 2\)"):
        BoundaryCounts(2).update(np.zeros((2, 3), dtype=int), np.zeros((3, 2), dtype=int))
    with pytest.raises(ValueError, match="must be integer labels"):
        BoundaryCounts(2).update(np.zeros((2, 3)), np.zeros((2, 3), dtype=int))
    assert math.isnan(BoundaryCounts(2).scores()["mean_boundary_iou"])
