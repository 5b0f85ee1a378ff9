"""The scores of single images, as a table whose first rows are the worst ones."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from kaseg.evaluation.confusion_matrix import iou_scores

COLUMNS = ("id", "mean_iou", "overall_accuracy", "num_pixels")


def image_row(name: str, matrix: Tensor) -> dict[str, Any]:
    """The row of one image by its own confusion matrix (C, C): `id`, `mean_iou` over the classes that are in its labels
    or its prediction, `overall_accuracy`, and `num_pixels` that have a label. Without any, the scores are NaN."""
    scores = iou_scores(matrix)
    values = (name, scores["mean_iou"], scores["overall_accuracy"], int(matrix.sum()))
    return dict(zip(COLUMNS, values, strict=True))


def worst_first(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows by ascending `mean_iou`, images without labelled pixels last; equals keep their order."""
    return sorted(rows, key=lambda row: (math.isnan(row["mean_iou"]), row["mean_iou"]))


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes rows as CSV with a header; NaN is an empty cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow(["" if row[column] != row[column] else row[column] for column in COLUMNS])
