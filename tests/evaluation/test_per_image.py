import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score

from kaseg.evaluation import ConfusionMatrix
from kaseg.evaluation.per_image import image_row, worst_first, write_table


def test_a_row_against_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    reference, prediction = rng.choice([0, 1, 3, 255], 500), rng.choice([0, 1, 2], 500)
    counts = ConfusionMatrix(6)
    counts.update(prediction, reference)
    row = image_row("a", counts.matrix)
    labelled = reference != 255
    present = [0, 1, 2, 3]
    scores = jaccard_score(reference[labelled], prediction[labelled], labels=present, average=None, zero_division=0)
    assert row["id"] == "a" and row["num_pixels"] == labelled.sum()
    assert row["mean_iou"] == pytest.approx(scores.mean())
    assert row["overall_accuracy"] == pytest.approx(accuracy_score(reference[labelled], prediction[labelled]))


def test_the_worst_come_first_and_unlabelled_images_last(tmp_path: Path) -> None:
    empty = image_row("empty", torch.zeros(2, 2, dtype=torch.int64))
    assert math.isnan(empty["mean_iou"]) and empty["num_pixels"] == 0
    rows = [
        {"id": name, "mean_iou": iou, "overall_accuracy": 0.5, "num_pixels": 3}
        for name, iou in zip("abc", (0.5, 0.25, 0.5), strict=True)
    ]
    table = worst_first([empty, *rows])
    assert [row["id"] for row in table] == ["b", "a", "c", "empty"]
    write_table(tmp_path / "new" / "images.csv", table)
    with (tmp_path / "new" / "images.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert read[0] == {"id": "b", "mean_iou": "0.25", "overall_accuracy": "0.5", "num_pixels": "3"}
    assert read[3] == {"id": "empty", "mean_iou": "", "overall_accuracy": "", "num_pixels": "0"}
