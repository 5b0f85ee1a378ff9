"""`kaseg list`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

DASH = "–"
_ANY_WIDTH = 1000


def list_models(
    everything: Annotated[
        bool, typer.Option("--all", help="Also the models of families that have a recipe, but no weights yet.")
    ] = False,
) -> None:
    """List the checkpoints that ship with the package: data, stride, cost, score and license."""
    from rich import box
    from rich.table import Table

    from .. import checkpoints
    from .output import console, plain_console

    shipped, families = checkpoints.list_models(), checkpoints.list_families()
    if not shipped and not families:
        console.print("No checkpoint ships with this version. Train one with kaseg train, or name one on the Hub.")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption="Params in millions; GFLOPs at 513x513.")
    # Names are there to be copied: whatever else has to give way, they are not broken.
    table.add_column("Name", no_wrap=True)
    table.add_column("Dataset", no_wrap=True)
    for title in ("Stride", "Params", "GFLOPs", "mIoU %"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("License", overflow="fold")
    # What can be used comes first.
    for name in shipped:
        folder = checkpoints.checkpoint_path(name)
        table.add_row(name, *_facts(_read(folder / "config.json"), _read(folder / "results.json")))
    if everything:
        _add_families(table, families)
    # A narrow terminal may break the lines, but columns that are cut off help nobody.
    widest = console.measure(table, options=console.options.update(max_width=_ANY_WIDTH)).maximum
    plain_console(width=max(console.width, widest)).print(table)
    if families and everything:
        console.print(
            "No weights ship for the models of a .yaml file: kaseg compare hub_configs/FILE.yaml trains them."
        )
    elif families:
        names = ", ".join(file.stem for file in families)
        console.print(f"Recipes of families without weights ({names}): kaseg list --all")


def _add_families(table: Table, families: list[Path]) -> None:
    """A row for each teacher and student of the families, without a score."""
    from ..experiments.planned import planned_models
    from .output import console

    for file in families:
        with console.status(f"Counting the cost of {file.name}"):
            models = planned_models(file)
        for name, (config, results) in models.items():
            table.add_row(f"{file.name}: {name}", *_facts(config.to_dict(), results))


def _facts(config: dict[str, Any], results: dict[str, Any]) -> list[str]:
    """Dataset, stride, parameters, cost, score (with its split) and license, as far as they are known."""
    from .output import percent

    parameters, cost = results.get("parameters"), results.get("gflops_513x513")
    split = {"validation": " val"}.get(results.get("split", ""), f" {results.get('split', '')}".rstrip())
    return [
        results.get("dataset", DASH),
        str(config.get("output_stride", DASH)),
        DASH if parameters is None else f"{parameters / 1e6:.2f}",
        DASH if cost is None else f"{cost:.2f}",
        percent(results.get("mean_iou")) + split,
        results.get("license", DASH),
    ]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
