"""MeanIoU keeps evaluate's interface, keeps no images, and gives the scores of one confusion matrix."""

import evaluate
import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from kaseg.evaluation import MeanIoU

VOID = 255


@pytest.fixture(autouse=True)
def no_cache_files(tmp_path, monkeypatch):
    """Every metric writes to a fresh folder if it writes at all, and must not."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(cache))
    yield
    assert not cache.exists()


def make_images(seed: int = 0, sizes=((20, 31), (17, 8), (40, 40))):
    rng = np.random.default_rng(seed)
    references = [rng.integers(0, 4, size).astype(np.uint8) for size in sizes]
    predictions = [np.where(rng.random(r.shape) < 0.6, r, (r + 1) % 4).astype(np.uint8) for r in references]
    for reference in references:
        reference[rng.random(reference.shape) < 0.1] = VOID
    return predictions, references


def expected_iou(predictions, references) -> np.ndarray:
    prediction = np.concatenate([p.ravel() for p in predictions])
    reference = np.concatenate([r.ravel() for r in references])
    valid = reference != VOID
    return jaccard_score(reference[valid], prediction[valid], labels=range(4), average=None)


def test_all_ways_of_feeding_agree_with_scikit_learn():
    predictions, references = make_images()
    expected = expected_iou(predictions, references)
    by_batch = MeanIoU(num_labels=4)
    by_batch.add_batch(predictions=predictions[:2], references=references[:2])
    by_batch.add_batch(predictions=predictions[2:], references=references[2:])
    one_by_one = MeanIoU(num_labels=4)
    for prediction, reference in zip(predictions, references, strict=True):
        one_by_one.add(prediction=prediction, reference=reference)
    assert len(one_by_one) == 3
    unknown = MeanIoU()
    unknown.add_batch(predictions=predictions, references=references)
    last_in_compute = MeanIoU(num_labels=4)
    last_in_compute.add_batch(predictions=predictions[:1], references=references[:1])
    results = [
        by_batch.compute(),
        one_by_one.compute(num_labels=4, ignore_index=255, reduce_labels=False),
        unknown.compute(num_labels=4),
        last_in_compute.compute(predictions=predictions[1:], references=references[1:]),
        MeanIoU().compute(predictions=predictions, references=references, num_labels=4, ignore_index=255),
        MeanIoU(4)._compute(predictions=predictions, references=references),
    ]
    for result in results:
        assert result == results[0]
    np.testing.assert_allclose(results[0]["per_category_iou"], expected)
    assert results[0]["mean_iou"] == pytest.approx(expected.mean())
    names = {"mean_iou", "mean_accuracy", "overall_accuracy", "per_category_iou", "per_category_accuracy"}
    assert names <= set(results[0])


def test_stacked_batch_of_which_counts_alone_are_kept():
    predictions, references = make_images(sizes=((9, 9), (9, 9)))
    metric = MeanIoU(4)
    metric.add_batch(predictions=torch.tensor(np.stack(predictions)), references=torch.tensor(np.stack(references)))
    assert len(metric) == 2
    assert metric.writer is None and metric.data is None and metric.buf_writer is None
    assert metric._counts.matrix.numel() == 16
    np.testing.assert_allclose(metric.compute()["per_category_iou"], expected_iou(predictions, references))


def test_compute_forgets_and_instances_are_independent():
    (first, first_reference), (second, second_reference) = make_images(1), make_images(2)
    metric, other = MeanIoU(4), MeanIoU(4)
    other.add_batch(predictions=second, references=second_reference)
    metric.add_batch(predictions=first, references=first_reference)
    first_result = metric.compute()
    assert len(metric) == 0
    metric.add_batch(predictions=second, references=second_reference)
    second_result = metric.compute()
    assert second_result == other.compute() != first_result
    for empty in (metric, MeanIoU(), MeanIoU(4)):
        with pytest.raises(ValueError, match=r"Nothing to score.*add_batch"):
            empty.compute(num_labels=4)


def test_labels_out_of_range_name_the_image_and_count_nothing_of_the_batch():
    predictions, references = make_images()
    metric = MeanIoU(4)
    metric.add_batch(predictions=predictions, references=references)
    bad = references[1].copy()
    bad[0, 0] = 17
    with pytest.raises(ValueError, match="references of sample '4' hold 17"):
        metric.add_batch(predictions=predictions, references=[references[0], bad, references[2]])
    assert len(metric) == 3
    np.testing.assert_allclose(metric.compute()["per_category_iou"], expected_iou(predictions, references))


def test_without_num_labels_bad_labels_are_found_in_compute():
    predictions, references = make_images()
    metric = MeanIoU()
    metric.add_batch(predictions=predictions, references=references)
    with pytest.raises(ValueError, match="number of classes is unknown"):
        metric.compute()
    with pytest.raises(ValueError, match="predictions hold 3"):
        metric.compute(num_labels=3)
    with pytest.raises(ValueError, match="references hold 255"):
        metric.compute(num_labels=4, ignore_index=254)
    with pytest.raises(ValueError, match="never a class"):
        metric.compute(num_labels=4, ignore_index=0)
    result = metric.compute(num_labels=6)  # the failed calls kept what was counted; classes 4 and 5 are absent
    np.testing.assert_allclose(result["per_category_iou"][:4], expected_iou(predictions, references))
    assert np.isnan(result["per_category_iou"][4:]).all()
    with pytest.raises(ValueError, match="predictions of sample '0' hold 300"):
        metric.add(prediction=[[300]], reference=[[1]])
    assert MeanIoU(300, -1).compute(predictions=[[[299]]], references=[[[299]]])["mean_iou"] == 1.0


def test_contradictions_and_missing_inputs():
    metric = MeanIoU(4)
    metric.add(prediction=[[1]], reference=[[1]])
    for options in ({"num_labels": 5}, {"ignore_index": 254}):
        with pytest.raises(ValueError, match="one place"):
            metric.compute(**options)
    with pytest.raises(ValueError, match="label map"):
        metric.compute(reduce_labels=True)
    with pytest.raises(ValueError, match="2 predictions but 1 references"):
        metric.add_batch(predictions=[[[1]], [[1]]], references=[[[1]]])
    with pytest.raises(ValueError, match=r"add_batch takes .* missing: \['references'\]"):
        metric.add_batch(predictions=[[[1]]])
    with pytest.raises(ValueError, match=r"unknown: \['weights'\]"):
        metric.add(prediction=[[1]], reference=[[1]], weights=[[1]])
    with pytest.raises(ValueError, match="num_process=2"):
        MeanIoU(4, num_process=2)


def test_evaluate_combine():
    predictions, references = make_images()
    combined = evaluate.combine({"four": MeanIoU(4), "six": MeanIoU(6)}, force_prefix=True)
    combined.add(predictions[0], references[0])
    combined.add_batch(predictions=predictions[1:], references=references[1:])
    result = combined.compute()
    assert result["four_mean_iou"] == pytest.approx(expected_iou(predictions, references).mean())
    assert result["six_mean_iou"] == result["four_mean_iou"]
    metric = MeanIoU(4)
    assert metric.name == "mean_iou" and "mean_iou" in repr(metric)
    for method in (metric.compute, metric.add, metric.add_batch):  # evaluate rewrites docstrings
        assert "void" in method.__doc__
