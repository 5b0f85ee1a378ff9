"""`kaseg list`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def list_models() -> None:
    """List the checkpoints that ship with the package."""
    from rich.table import Table

    from .. import checkpoints
    from .output import console, percent

    names = checkpoints.list_models()
    if not names:
        console.print("No checkpoint ships with this version. Train one with kaseg train, or name one on the Hub.")
        return
    table = Table(caption="GFLOPs at 513x513")
    # Names are there to be copied: whatever else has to give way, they are not broken.
    table.add_column("Name", no_wrap=True)
    table.add_column("Dataset", overflow="fold")
    for title in ("Stride", "Params", "GFLOPs", "mIoU %"):
        table.add_column(title, justify="right")
    table.add_column("Licence")
    for name in names:
        folder = checkpoints.checkpoint_path(name)
        config, results = _read(folder / "config.json"), _read(folder / "results.json")
        parameters, cost = results.get("parameters"), results.get("gflops_513x513")
        table.add_row(
            name,
            " ".join(str(results[key]) for key in ("dataset", "split") if key in results) or "–",
            str(config.get("output_stride", "–")),
            "–" if parameters is None else f"{parameters / 1e6:.2f} M",
            "–" if cost is None else f"{cost:.2f}",
            percent(results.get("mean_iou")),
            results.get("license", "–"),
        )
    console.print(table)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
