"""`kaseg benchmark`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Against(StrEnum):
    """The horizontal axis of the plot."""

    LATENCY = "latency"
    GFLOPS = "gflops"


def benchmark(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Folder, shipped checkpoint, Hub id, kaseg:FIELD=VALUE,..., transformers:TYPE[:FIELD=VALUE,...], "
            "smp:ARCHITECTURE:ENCODER or torchvision:NAME. Weights are random.",
        ),
    ],
    engine: Annotated[
        list[str] | None,
        typer.Option(help="eager, fused, channels_last, bf16, compile, onnxruntime, openvino, int8; all by default."),
    ] = None,
    size: Annotated[list[str] | None, typer.Option(metavar="HxW", help="Several times for several; 512x512.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="By default as many as PyTorch takes.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed passes of each, in turn.")] = 20,
    memory: Annotated[bool, typer.Option(help="Also take the peak memory, in a process per row.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here.")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the table here.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw the mIoU of each model's results.json here.")
    ] = None,
    against: Annotated[Against, typer.Option(help="What the plot draws the mIoU against.")] = Against.LATENCY,
) -> None:
    """Time models side by side: parameters, GFLOPs, latency of one image and peak memory, engine by engine."""
    import torch
    from rich.markup import escape

    from ..benchmark import ENGINES, to_markdown
    from ..benchmark import benchmark as measure
    from ..benchmark.plots import accuracy_against_cost, mean_iou
    from ..writing import write_json
    from .output import console

    sizes = [_size(text) for text in size or ["512x512"]]
    # Before the measurement, which may take long.
    for file in (json_file, markdown, plot):
        if file is not None and file.is_dir():
            raise IsADirectoryError(f"{file} is a folder: name a file in it.")
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
    if plot is not None and all(mean_iou(model) is None for model in models):
        raise ValueError("--plot: no model has a results.json with a mean IoU beside its config.json.")
    if threads is not None:
        torch.set_num_threads(threads)
    with console.status("") as status:
        # A status reads its text as markup, whatever the console does.
        def show(line: str) -> None:
            status.update(escape(line))

        report = measure(models, engine or tuple(ENGINES), sizes, repeats, memory, progress=show)
    # Before anything is shown, and the plot last: what was measured must not be lost.
    if json_file is not None:
        write_json(json_file, report)
    table = to_markdown(report)
    if markdown is not None:
        markdown.write_text(table, encoding="utf-8")
    console.print(table, soft_wrap=True)
    if plot is not None:
        accuracy_against_cost(report, against.value).savefig(plot, dpi=150)


def _size(text: str) -> tuple[int, int]:
    height, times, width = text.lower().partition("x")
    if not (times and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise typer.BadParameter(f"expected HEIGHTxWIDTH, got {text!r}.", param_hint="--size")
    return int(height), int(width)
