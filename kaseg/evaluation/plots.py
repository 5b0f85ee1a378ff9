"""Plots of scores: the confusion matrix, and accuracy against cost."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# The most classes for which every cell has room for a number.
_MOST_WITH_NUMBERS = 40


def literal(text: str) -> str:
    """A label that matplotlib draws as it is: a `$` begins no formula, a line that starts with `_` is in the legend."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def plot_confusion_matrix(matrix: Any, names: Sequence[str]) -> Figure:
    """Draws a confusion matrix: rows are the reference, and each adds up to 100 %.

    The cell of row r and column p says how much of class r was predicted as p, so the diagonal holds the accuracy per
    class. Rows of classes without a reference pixel are left blank. The image grows with the number of classes: names
    can be read for 171 classes as well, percentages are written into the cells for 40 classes at most.

    Args:
        matrix: Counts, (C, C), rows = reference, columns = prediction.
        names: C class names; a ValueError if there are not C.
    """
    counts = np.asarray(matrix, dtype=np.float64)
    if counts.shape != (len(names), len(names)):
        raise ValueError(f"A confusion matrix of shape {counts.shape} does not go with {len(names)} class names.")
    with np.errstate(invalid="ignore"):
        shares = 100 * counts / counts.sum(axis=1, keepdims=True)
    with_numbers = len(names) <= _MOST_WITH_NUMBERS
    inches = 2.5 + len(names) * (0.42 if with_numbers else 0.13)
    figure = Figure(figsize=(inches + 1, inches), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("% of the reference's pixels")
    size = 9 if with_numbers else 7
    places = np.arange(len(names))
    shown = [literal(name) for name in names]
    axes.set_xticks(places, shown, rotation=90, fontsize=size)
    axes.set_yticks(places, shown, fontsize=size)
    axes.set(xlabel="prediction", ylabel="reference")
    if with_numbers:
        for row, column in zip(*np.nonzero(shares >= 0.5), strict=True):
            share = shares[row, column]
            color = "white" if share > 50 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=8, color=color)
    return figure


class CostPoint(NamedTuple):
    """A model in a plot of accuracy against cost: mean IoU and its spread in 0..1, and what is written beside it."""

    cost: float
    mean_iou: float
    name: str = ""
    spread: float = 0.0


def plot_accuracy_against_cost(series: Mapping[str, Sequence[CostPoint]], cost: str) -> tuple[Figure, Axes]:
    """Draws mIoU in percent against what it costs, which `cost` names, on a logarithmic axis, without a legend: a line
    for each series by its name."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for label, points in series.items():
        points = sorted(points, key=lambda point: point.cost)
        costs, scores = [point.cost for point in points], [100 * point.mean_iou for point in points]
        spreads = [100 * point.spread for point in points]
        axes.errorbar(costs, scores, spreads if any(spreads) else None, marker="o", capsize=3, label=literal(label))
        for point in points:
            at = (point.cost, 100 * point.mean_iou)
            axes.annotate(literal(point.name), at, textcoords="offset points", xytext=(5, -11), fontsize=8)
    axes.set(xscale="log", xlabel=cost, ylabel="mIoU %")
    axes.grid(alpha=0.3)
    return figure, axes
