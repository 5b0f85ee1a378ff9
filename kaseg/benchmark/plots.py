"""Accuracy against what it costs."""

import json
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure

from kaseg.checkpoints import resolve
from kaseg.evaluation.plots import CostPoint, plot_accuracy_against_cost


def mean_iou(spec: str) -> float | None:
    """The mean IoU in the `results.json` of a folder or shipped checkpoint; `None` if it has none."""
    file = Path(resolve(spec)) / "results.json"
    if not file.is_file():
        return None
    return json.loads(file.read_text(encoding="utf-8")).get("mean_iou")


def accuracy_against_cost(report: dict[str, Any], against: Literal["latency", "gflops"] = "latency") -> Figure:
    """mIoU against median latency, one series per engine, or against GFLOPs.

    Args:
        report: As [`~kaseg.benchmark.benchmark`] gives it. Models without a `results.json` are left out. The mIoU is
            that of the float32 model: int8 is drawn where it would be without a loss, and its label says so.
        against: What the horizontal axis shows.

    Raises:
        ValueError: No model has a `results.json` with a mean IoU.
    """
    scores = {row["model"]: mean_iou(row["model"]) for row in report["rows"]}
    rows = [row for row in report["rows"] if scores[row["model"]] is not None and "median_ms" in row]
    if not rows:
        raise ValueError("nothing to draw: no model has a results.json with a mean IoU beside its config.json")
    key = "median_ms" if against == "latency" else "gflops"
    series: dict[str, list[CostPoint]] = {}
    named: set[str] = set()
    for row in rows:
        engine = row["engine"] if against == "latency" else ""
        note = " (mIoU of float32)" if engine == "int8" else ""
        label = f"{engine}{note} {row['height']}x{row['width']}".strip()
        name = "" if row["model"] in named else row["model"].rpartition("/")[2]
        named.add(row["model"])
        series.setdefault(label, []).append(CostPoint(row[key], scores[row["model"]] or 0.0, name))
    cost = "milliseconds per image" if against == "latency" else "GFLOPs"
    figure, axes = plot_accuracy_against_cost(series, cost)
    axes.legend(fontsize=8)
    return figure
