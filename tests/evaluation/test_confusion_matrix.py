"""ConfusionMatrix and iou_scores against scikit-learn and a pixel-by-pixel loop."""

import tracemalloc

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image
from sklearn.metrics import confusion_matrix, jaccard_score, recall_score

from kaseg.evaluation import ConfusionMatrix, MeanIoU, iou_scores

VOID = 255


def make_pair(seed: int, num_labels: int = 7, shape: tuple[int, ...] = (3, 41, 37), void: float = 0.1):
    """Reference labels with void, and predictions that agree with them in about half of the pixels; class 5 absent."""
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, num_labels, shape)
    prediction = np.where(rng.random(shape) < 0.5, reference, rng.integers(0, num_labels, shape))
    if num_labels > 5:
        reference[reference == 5] = 0
        prediction[prediction == 5] = 1
    reference[rng.random(shape) < void] = VOID
    return prediction.astype(np.uint8), reference.astype(np.uint8)


def count_by_loop(prediction: np.ndarray, reference: np.ndarray, num_labels: int, void: int = VOID) -> np.ndarray:
    counts = np.zeros((num_labels, num_labels), dtype=np.int64)
    for p, r in zip(prediction.ravel(), reference.ravel(), strict=True):
        if r != void:
            counts[r, p] += 1
    return counts


def counted(prediction, reference, num_labels: int = 7, ignore_index: int = VOID) -> torch.Tensor:
    matrix = ConfusionMatrix(num_labels, ignore_index)
    matrix.update(prediction, reference)
    return matrix.matrix


def test_counts_and_scores_match_scikit_learn():
    prediction, reference = make_pair(0)
    matrix = counted(prediction, reference)
    assert matrix.dtype == torch.int64
    valid = reference != VOID
    true, predicted = reference[valid], prediction[valid]
    assert_allclose(matrix, count_by_loop(prediction, reference, 7))
    assert_allclose(matrix, confusion_matrix(true, predicted, labels=range(7)))
    scores = iou_scores(matrix)
    present = [c for c in range(7) if c != 5]
    iou = jaccard_score(true, predicted, labels=present, average=None)
    recall = recall_score(true, predicted, labels=present, average=None)
    assert_allclose([scores["per_category_iou"][c] for c in present], iou)
    assert_allclose([scores["per_category_accuracy"][c] for c in present], recall)
    assert np.isnan(scores["per_category_iou"][5]) and np.isnan(scores["per_category_accuracy"][5])
    assert scores["mean_iou"] == pytest.approx(iou.mean())
    assert scores["mean_accuracy"] == pytest.approx(recall.mean())
    assert scores["overall_accuracy"] == pytest.approx((true == predicted).mean())
    weighted = jaccard_score(true, predicted, labels=present, average="weighted")
    assert scores["frequency_weighted_iou"] == pytest.approx(weighted)


def test_absent_classes_are_nan_and_left_out_of_the_means():
    # Class 0 half right, class 1 predicted but never there (IoU 0, no accuracy), class 2 absent altogether.
    scores = iou_scores(counted(np.array([[0, 1]]), np.array([[0, 0]]), num_labels=3))
    assert scores["per_category_iou"] == pytest.approx([0.5, 0.0, np.nan], nan_ok=True)
    assert scores["per_category_accuracy"] == pytest.approx([0.5, np.nan, np.nan], nan_ok=True)
    assert (scores["mean_iou"], scores["mean_accuracy"], scores["frequency_weighted_iou"]) == (0.25, 0.5, 0.5)
    assert all(type(value) is float for value in scores["per_category_iou"])
    nothing = iou_scores(counted(np.array([[0, 1]]), np.array([[VOID, VOID]]), num_labels=2))
    for key in ("mean_iou", "mean_accuracy", "overall_accuracy", "frequency_weighted_iou"):
        assert np.isnan(nothing[key]), key
    assert counted(np.zeros((0, 4), int), np.zeros((0, 4), int)).sum() == 0


def test_updates_and_merge_equal_one_update_on_everything():
    (first, first_reference), (second, second_reference) = make_pair(4), make_pair(5)
    together = counted(np.concatenate([first, second]), np.concatenate([first_reference, second_reference]))
    left, right = ConfusionMatrix(7), ConfusionMatrix(7)
    left.update(first, first_reference)
    right.update(second, second_reference)
    before, kept = left.matrix, left.matrix.clone()
    left.merge(right)
    right.update(first, first_reference)
    assert torch.equal(left.matrix, together) and torch.equal(right.matrix, together)
    left.update(second, second_reference)
    assert torch.equal(before, kept), "a matrix handed out earlier must not change"
    for other in (ConfusionMatrix(8), ConfusionMatrix(7, ignore_index=254)):
        with pytest.raises(ValueError, match="Cannot merge"):
            left.merge(other)
    left.reset()
    assert left.matrix.sum() == 0


@pytest.mark.parametrize(
    "convert",
    [
        torch.from_numpy,
        lambda a: torch.from_numpy(a).long(),
        lambda a: a.astype(np.uint16),
        lambda a: a.astype(np.int32),
        lambda a: a.tolist(),
        lambda a: a[::-1].copy()[::-1],  # negative strides
        lambda a: np.asfortranarray(a),
        lambda a: torch.from_numpy(a.transpose(2, 1, 0).copy()).permute(2, 1, 0),
        lambda a: np.broadcast_to(a, a.shape),  # read-only
    ],
    ids=["torch", "int64", "uint16", "int32", "list", "flipped", "fortran", "permuted", "read_only"],
)
def test_input_kinds(convert):
    prediction, reference = make_pair(8)
    expected = counted(prediction, reference)
    assert torch.equal(counted(convert(prediction), convert(reference)), expected)
    assert torch.equal(counted(convert(prediction), reference), expected)


def test_pil_images_and_bilevel_masks():
    prediction, reference = make_pair(8, shape=(20, 30))
    assert torch.equal(counted(Image.fromarray(prediction), Image.fromarray(reference)), counted(prediction, reference))
    matrix = counted(prediction == 1, reference == 1, num_labels=2)
    assert_allclose(matrix, confusion_matrix((reference == 1).ravel(), (prediction == 1).ravel()))


@pytest.mark.parametrize(
    ("num_labels", "void"),
    [(300, -1), (300, 65535), (7, -100), (7, 1000), (256, -1), (7, 250), (180, VOID), (181, VOID)],
)
def test_values_beyond_a_byte(num_labels, void):
    prediction, reference = make_pair(9, num_labels)
    reference = reference.astype(np.int64)
    if num_labels >= 256:  # make_pair wraps at a byte; spread the labels over the whole range again
        rng = np.random.default_rng(9)
        prediction, reference = rng.integers(0, num_labels, (2, *prediction.shape))
    reference[:, 3] = void
    reference[reference == VOID] = void
    expected = count_by_loop(prediction, reference, num_labels, void)
    assert_allclose(counted(prediction, reference, num_labels, void), expected)


@pytest.mark.parametrize("kind", [np.uint8, np.int64])
def test_labels_out_of_range_are_named_and_not_counted(kind):
    matrix = ConfusionMatrix(3)
    good = np.array([[0, 1, 2]], dtype=kind)
    with pytest.raises(ValueError, match=r"predictions of sample 'a\.png' hold 3, 9, .* Predictions must be in 0\.\.2"):
        matrix.update(np.array([[9, 3, 2]], dtype=kind), good, sample="a.png")
    with pytest.raises(ValueError, match=r"references of sample 'b' hold 3, .* 0\.\.2 or 255 \(void\).*label map"):
        matrix.update(good, np.array([[3, VOID, 2]], dtype=kind), sample="b")
    with pytest.raises(ValueError, match="predictions hold 255"):  # also where the reference is void
        matrix.update(np.array([[VOID, 1, 2]], dtype=kind), np.array([[VOID, 1, 2]], dtype=kind))
    assert matrix.matrix.sum() == 0


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32, np.int64])
def test_negative_labels_are_no_large_ones(kind):
    good, negative = np.array([[0, 1]], dtype=kind), np.array([[-1, 1]], dtype=kind)
    assert counted(good, negative, num_labels=256, ignore_index=-1).sum() == 1
    for num_labels, void in ((7, VOID), (256, -1)):
        with pytest.raises(ValueError, match="predictions hold -1"):
            counted(negative, good, num_labels, void)
    with pytest.raises(ValueError, match="references hold -1"):
        counted(good, negative)


def test_wide_values_out_of_range():
    for prediction, reference, message in [
        (300, 0, "predictions hold 300"),
        (-1, 0, "predictions hold -1"),
        (0, -100, r"references hold -100.*or -1 \(void\)"),
        (2**32, 0, "predictions hold 4294967296"),
    ]:
        with pytest.raises(ValueError, match=message):
            counted([[prediction, 0]], [[reference, 0]], 300, -1)
    assert counted([[299, 0]], [[299, -1]], 300, -1).sum() == 1


def test_wrong_shapes_types_and_settings():
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\).*Resize"):
        matrix.update(np.zeros((2, 3), int), np.zeros((3, 2), int))
    for logits in (np.zeros((2, 3)), torch.zeros(2, 3), [[0.0]]):
        with pytest.raises(ValueError, match="argmax"):
            matrix.update(logits, np.zeros((2, 3), int))
    with pytest.raises(ValueError, match="never a class"):
        ConfusionMatrix(3, ignore_index=0)
    with pytest.raises(ValueError, match="never a class"):
        ConfusionMatrix(300)
    for build in (ConfusionMatrix, MeanIoU):
        with pytest.raises(ValueError, match="at least 2"):
            build(1)
    with pytest.raises(ValueError, match=r"square.*\(2, 3\)"):
        iou_scores(np.zeros((2, 3)))


def test_memory_does_not_grow_with_images():
    matrix = ConfusionMatrix(7)
    prediction, reference = make_pair(10, shape=(256, 256))
    matrix.update(prediction, reference)
    tracemalloc.start()
    for _ in range(50):
        matrix.update(prediction, reference)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < prediction.nbytes, f"{kept} bytes kept after 50 images of {prediction.nbytes} bytes"
    state = [value for value in vars(matrix).values() if isinstance(value, torch.Tensor)]
    assert sum(value.numel() for value in state) == 49
    assert matrix.matrix.sum() == 51 * (reference != VOID).sum()
