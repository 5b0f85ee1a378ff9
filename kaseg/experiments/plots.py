"""Pictures of a family of runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from kaseg.evaluation.plots import CostPoint, literal, plot_accuracy_against_cost
from kaseg.experiments.comparison import TEACHER, Run
from kaseg.experiments.summary import Finished
from kaseg.losses import LOSSES

# Read off the authors' own figure (see docs/method.md): output stride, GFLOPs, plain and adapted mIoU in percent.
PAPER_POINTS = ((32, 3.23, 68.9, 70.7), (16, 5.50, 70.5, 72.5), (8, 17.70, 71.9, 72.9), (4, 67.03, 72.3, 73.0))


def accuracy_against_cost(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """mIoU against GFLOPs of the rows of [`~kaseg.experiments.summary.summarize`], one curve per objective with
    standard deviations over seeds, in the manner of the paper's first figure; and the paper's points, labelled "paper"
    (another dataset and recipe), on an axis of their own."""
    series: dict[str, list[CostPoint]] = {}
    for row in rows:
        if row["gflops"] is None:
            continue
        name = "" if row["student"] == TEACHER else row["student"]
        point = CostPoint(row["gflops"], row["mean_iou"], name, row["std"] or 0.0)
        series.setdefault(row["objective"], []).append(point)
    figure, axes = plot_accuracy_against_cost(series, "GFLOPs at 513x513 (2 x multiply-adds)")
    axes.set_xticks([2, 3, 5, 10, 20, 30, 50, 100], minor=False)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    other = axes.twinx()
    for index, (name, style) in enumerate((("plain (paper)", "--"), ("adapted (paper)", "-"))):
        costs, scores = [p[1] for p in PAPER_POINTS], [p[2 + index] for p in PAPER_POINTS]
        other.plot(costs, scores, style, color="gray", marker=".", alpha=0.6, label=name)
    other.set_ylabel("mIoU % (paper, VOC 2012)", color="gray")
    ours, theirs = axes.get_legend_handles_labels(), other.get_legend_handles_labels()
    axes.legend(ours[0] + theirs[0], ours[1] + theirs[1], fontsize=8, loc="lower right")
    return figure


def learning_curves(finished: Finished) -> Figure:
    """Training loss on the labels (left) and validation mIoU (right, where it was taken) over steps, a line per run."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    colors = {name: f"C{index}" for index, name in enumerate(dict.fromkeys(_group(run) for run, _ in finished))}
    for name, color in colors.items():
        runs = [results for run, results in finished if _group(run) == name]
        for index, results in enumerate(runs):
            label = literal(name) if index == 0 else None
            for axes, keys, factor in (
                (left, (*(f"distillation/{name}" for name in LOSSES), "loss"), 1.0),
                (right, ("eval_mean_iou",), 100.0),
            ):
                steps, values = _curve(results["log"], keys)
                axes.plot(steps, [factor * value for value in values], color=color, label=label, alpha=0.8)
    left.set(xlabel="step", ylabel="loss on the labels", yscale="log")
    right.set(xlabel="step", ylabel="validation mIoU %")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    return figure


def class_bars(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """IoU of every class, one bar per row of the summary."""
    names = list(dict.fromkeys(name for row in rows for name in row["per_category_iou"]))
    figure = Figure(figsize=(max(7.0, 0.25 * len(names) * len(rows)), 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(rows)
    for index, row in enumerate(rows):
        at = [position + (index - (len(rows) - 1) / 2) * width for position in range(len(names))]
        label = TEACHER if row["student"] == TEACHER else f"{row['student']}, {row['objective']}"
        heights = [100 * row["per_category_iou"].get(name, 0.0) for name in names]
        axes.bar(at, heights, width, label=literal(label))
    axes.set_xticks(range(len(names)), [literal(name) for name in names], rotation=45, ha="right")
    axes.set(ylabel="IoU %", ylim=(0, 100))
    axes.legend(fontsize=8)
    return figure


def _group(run: Run) -> str:
    return TEACHER if run.student == TEACHER else f"{run.student}, {run.objective}"


def _curve(log: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> tuple[list[int], list[float]]:
    """Steps and values of the first of `keys` that the log has."""
    for key in keys:
        points = [(entry["step"], entry[key]) for entry in log if key in entry]
        if points:
            return [step for step, _ in points], [value for _, value in points]
    return [], []
