"""`kaseg list`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

DASH = "–"
WIDTH = 104


def list_models(
    everything: Annotated[
        bool, typer.Option("--all", help="Also models that have a recipe, but no weights yet.")
    ] = False,
) -> None:
    """List the checkpoints that ship with the package: data, stride, cost, score and licence."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from .. import checkpoints
    from .output import console

    shipped = checkpoints.list_models()
    root = checkpoints._root()
    configured = sorted(f"{checkpoints.NAMESPACE}/{path.parent.name}" for path in root.glob("*/config.json"))
    planned = [name for name in configured if name not in shipped]
    if not configured:
        console.print("No checkpoint ships with this version. Train one with kaseg train, or name one on the Hub.")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption="Params in millions; GFLOPs at 513x513.")
    # Names are there to be copied: whatever else has to give way, they are not broken.
    table.add_column("Name", no_wrap=True)
    table.add_column("Dataset", no_wrap=True)
    for title in ("Stride", "Params", "GFLOPs", "mIoU %"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("Licence", overflow="fold")
    # What can be used comes first.
    for name in [*shipped, *(planned if everything else [])]:
        table.add_row(name, *_facts(root / name.removeprefix(f"{checkpoints.NAMESPACE}/")))
    # A narrow terminal may break the lines, but columns that are cut off help nobody.
    Console(width=max(console.width, WIDTH)).print(table)
    if planned and everything:
        console.print("Models without a score are not trained yet: they have a recipe, but no weights to load.")
    elif planned:
        console.print(f"{len(planned)} more have a recipe, but no weights yet: kaseg list --all", highlight=False)


def _facts(folder: Path) -> list[str]:
    """Dataset, stride, parameters, cost, score (with its split) and licence, as far as the folder says."""
    from .output import percent

    config, results = _read(folder / "config.json"), _read(folder / "results.json")
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
