"""Tables of the commands."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def plain_console(stderr: bool = False, width: int | None = None) -> Console:
    """A console that prints text as it is: class names, paths and messages are users' own words, never rich's markup,
    emoji codes or numbers to be colored."""
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


console = plain_console()


def print_run(results: Mapping[str, Any], output_dir: Path) -> None:
    """The results of a training run (what `results.json` holds) and where they lie."""
    print_scores(results)
    facts = Table.grid(padding=(0, 2))
    facts.add_row("Steps", f"{results['steps']} in {timedelta(seconds=round(results['train_seconds']))}")
    facts.add_row("Seed", str(results["seed"]))
    facts.add_row("Hardware", results["hardware"])
    console.print(facts)
    console.print(f"Model, recipe and results: {output_dir.resolve()}", soft_wrap=True)


def print_scores(results: Mapping[str, Any]) -> None:
    """IoU and, where known, boundary IoU and accuracy per class and on the whole, and the model's cost."""
    from ..evaluation.cost import in_words

    columns = {"IoU %": ("per_category_iou", "mean_iou")}
    if results.get("per_category_boundary_iou"):
        columns["Boundary IoU %"] = ("per_category_boundary_iou", "mean_boundary_iou")
    if results.get("per_category_accuracy"):
        columns["Accuracy %"] = ("per_category_accuracy", "mean_accuracy")
    console.print(f"\n{results['dataset']}, {results['split']}: {results['protocol']}")
    table = Table()
    table.add_column("Class")
    for title in columns:
        table.add_column(title, justify="right")
    for name in results["per_category_iou"]:
        table.add_row(name, *(percent(results[per_class][name]) for per_class, _ in columns.values()))
    table.add_section()
    table.add_row("Mean", *(percent(results[mean]) for _, mean in columns.values()), style="bold")
    console.print(table)
    if results.get("caution"):
        console.print(f"Mind: {results['caution']}", style="yellow")
    weighted = results.get("frequency_weighted_iou")
    also = "" if weighted is None else f", IoU weighted by frequency {percent(weighted)} %"
    console.print(f"Pixel accuracy {percent(results['overall_accuracy'])} %{also}")
    console.print(f"{in_words(results)} at 513x513")


def percent(fraction: float | None) -> str:
    """A fraction as percent, a dash where there is none."""
    return "–" if fraction is None or fraction != fraction else f"{100 * fraction:.2f}"
