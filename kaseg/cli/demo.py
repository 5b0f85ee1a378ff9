"""`kaseg demo`."""

from pathlib import Path
from typing import Annotated

import typer

from ..checkpoints import DEFAULT_MODEL
from . import common

_THIS_MACHINE = "127.0.0.1"


def demo(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help="Hub ids, folders or shipped checkpoints; the default model."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; this machine alone by default.")] = _THIS_MACHINE,
    port: Annotated[int | None, typer.Option(help="Port; the first free one from 7860 by default.")] = None,
    share: Annotated[bool, typer.Option(help="Make a public link through Gradio's servers.")] = False,
    device: common.Device = None,
    static: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a page here that segments in the visitor's browser, without a server."),
    ] = None,
    onnxruntime_web: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="For --static: folder of this npm package; npm fetches it otherwise (33 MB)."),
    ] = None,
) -> None:
    """Try models in a browser: photos, the webcam, videos, two models side by side."""
    names = list(dict.fromkeys(models or [DEFAULT_MODEL]))
    if static is not None:
        if len(names) > 1:
            raise ValueError(f"--static writes a page of one model, got {len(names)}: {', '.join(names)}.")
        given = {"--host": host != _THIS_MACHINE, "--port": port, "--share": share, "--device": device}
        if served := [option for option, value in given.items() if value]:
            raise ValueError(f"--static writes a page that needs no server: leave out {', '.join(served)}.")
        _write_static(names[0], static, onnxruntime_web)
        return
    if onnxruntime_web is not None:
        raise ValueError("--onnxruntime-web would change nothing without --static.")
    from ..inference import Predictor, deployed
    from ..inference.app import build, launch
    from .models import load_model
    from .output import console

    predictors = {}
    for name in names:
        network, processor = load_model(name, device)
        predictors[name] = Predictor(deployed(network), processor)
    page = build(predictors)
    address = launch(page, host, port, share, block=False)
    console.print(f"Page: {address}   (Ctrl-C ends it)", soft_wrap=True)
    page.block_thread()


def _write_static(model: str, static: Path, onnxruntime_web: Path | None) -> None:
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
    console.print(f"Page: {static.resolve()}, {decimal(sum(sizes.values()))}", soft_wrap=True)
    console.print(f"python -m http.server --directory {static}, then http://localhost:8000", soft_wrap=True)
