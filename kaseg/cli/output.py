"""Tables and progress bars of the commands."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

console = Console()


def print_run(results: Mapping[str, Any], output_dir: Path) -> None:
    """The results of a training run (what `results.json` holds) and where they lie."""
    print_scores(results)
    facts = Table.grid(padding=(0, 2))
    facts.add_row("Steps", f"{results['steps']} in {timedelta(seconds=round(results['train_seconds']))}")
    facts.add_row("Seed", str(results["seed"]))
    facts.add_row("Hardware", results["hardware"])
    console.print(facts)
    console.print(f"Model, recipe and results: {output_dir.resolve()}", soft_wrap=True, highlight=False)


def print_scores(results: Mapping[str, Any]) -> None:
    """IoU and, where known, accuracy per class and on the whole, and the model's cost."""
    accuracies = results.get("per_category_accuracy")
    console.print(f"\n{results['dataset']}, {results['split']}: {results['protocol']}", highlight=False)
    table = Table()
    table.add_column("Class")
    table.add_column("IoU %", justify="right")
    if accuracies:
        table.add_column("Accuracy %", justify="right")
    for name, iou in results["per_category_iou"].items():
        table.add_row(name, percent(iou), *([percent(accuracies[name])] if accuracies else []))
    table.add_section()
    mean_accuracy = [percent(results["mean_accuracy"])] if accuracies else []
    table.add_row("Mean", percent(results["mean_iou"]), *mean_accuracy, style="bold")
    console.print(table)
    console.print(f"Pixel accuracy {percent(results['overall_accuracy'])} %", highlight=False)
    console.print(
        f"{results['parameters'] / 1e6:.2f} M parameters, {results['gflops_513x513']:.2f} GFLOPs at 513x513",
        highlight=False,
    )


def percent(fraction: float | None) -> str:
    """A fraction as percent, a dash where there is none."""
    return "–" if fraction is None or fraction != fraction else f"{100 * fraction:.2f}"


def progress_bar() -> Progress:
    """A bar that counts images, on standard error, so that output can be piped."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
