"""`kaseg list`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DASH = "–"


def list_models() -> None:
    """List the checkpoints that ship with the package, and the models that have a recipe but no weights yet."""
    from rich.table import Table

    from .. import checkpoints
    from .output import console

    shipped = checkpoints.list_models()
    root = checkpoints._root()
    configured = sorted(f"{checkpoints.NAMESPACE}/{path.parent.name}" for path in root.glob("*/config.json"))
    if not configured:
        console.print("No checkpoint ships with this version. Train one with kaseg train, or name one on the Hub.")
        return
    table = Table(caption="GFLOPs at 513x513. Models that are not trained have a recipe, but no weights to load.")
    # Names are there to be copied: whatever else has to give way, they are not broken.
    table.add_column("Name", no_wrap=True)
    table.add_column("Trained")
    table.add_column("Dataset", overflow="fold")
    for title in ("Stride", "Params", "GFLOPs", "mIoU %"):
        table.add_column(title, justify="right")
    table.add_column("Licence", overflow="fold")
    # What can be used comes first.
    for name in [*shipped, *(name for name in configured if name not in shipped)]:
        trained = "yes" if name in shipped else "no"
        table.add_row(name, trained, *_facts(root / name.removeprefix(f"{checkpoints.NAMESPACE}/")))
    console.print(table)


def _facts(folder: Path) -> list[str]:
    """Dataset, stride, parameters, cost, score and licence, as far as the folder says."""
    from .output import percent

    config, results = _read(folder / "config.json"), _read(folder / "results.json")
    parameters, cost = results.get("parameters"), results.get("gflops_513x513")
    return [
        " ".join(str(results[key]) for key in ("dataset", "split") if key in results) or DASH,
        str(config.get("output_stride", DASH)),
        DASH if parameters is None else f"{parameters / 1e6:.2f} M",
        DASH if cost is None else f"{cost:.2f}",
        percent(results.get("mean_iou")),
        results.get("license", DASH),
    ]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
