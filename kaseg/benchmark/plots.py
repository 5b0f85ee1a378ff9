"""Accuracy against what it costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure

from kaseg.checkpoints import resolve


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
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    key = "median_ms" if against == "latency" else "gflops"
    series: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for row in rows:
        engine = row["engine"] if against == "latency" else ""
        series.setdefault((engine, row["height"], row["width"]), []).append(row)
    for (engine, height, width), points in series.items():
        note = " (mIoU of float32)" if engine == "int8" else ""
        axes.plot(
            [row[key] for row in points],
            [100 * (scores[row["model"]] or 0.0) for row in points],
            "o",
            label=f"{engine}{note} {height}x{width}".strip(),
        )
    for name in dict.fromkeys(row["model"] for row in rows):
        first = next(row for row in rows if row["model"] == name)
        at = (first[key], 100 * (scores[name] or 0.0))
        axes.annotate(name.rpartition("/")[2], at, textcoords="offset points", xytext=(5, 5), fontsize=8)
    axes.set(xscale="log", xlabel="milliseconds per image" if against == "latency" else "GFLOPs", ylabel="mIoU %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
