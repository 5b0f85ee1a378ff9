"""`kaseg demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Hub id, folder or shipped checkpoint; or an export with --output mask."),
    ],
    static: Annotated[
        Path, typer.Option(metavar="DIR", help="Write a page here that segments in the visitor's browser.")
    ],
    onnxruntime_web: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of this npm package; by default npm fetches it (33 MB)."),
    ] = None,
) -> None:
    """Write a page that segments photos and the webcam in the visitor's browser."""
    import tempfile

    from rich.filesize import decimal

    from ..export import ExportOptions, export_model
    from ..export.record import RECORD_NAME
    from ..export.static_demo import write_static_demo
    from .models import load_model
    from .output import console

    if (Path(model) / RECORD_NAME).is_file():
        sizes = write_static_demo(model, static, onnxruntime_web)
    else:
        network, processor = load_model(model, "cpu")
        with tempfile.TemporaryDirectory() as scratch:
            exported = Path(scratch) / "export"
            export_model(network, processor, exported, ExportOptions(output="mask"), source=model)
            sizes = write_static_demo(exported, static, onnxruntime_web)
    console.print(f"Page: {static.resolve()}, {decimal(sum(sizes.values()))}", soft_wrap=True, highlight=False)
    console.print(f"python -m http.server --directory {static}, then http://localhost:8000", soft_wrap=True)
