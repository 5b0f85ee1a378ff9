"""`kaseg quickstart`."""

from pathlib import Path
from typing import Annotated

import typer


def quickstart(
    output: Annotated[Path, typer.Option(help="Folder for the models and the page of images.")] = Path("quickstart"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of data, weights and order.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each training; fewer for a quick look.")] = 120,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of students, each of its own seed.")] = 1,
) -> None:
    """What a teacher is worth, in minutes and without downloads: students with few masks, on drawn street scenes."""
    from ..experiments.quickstart import quickstart as run_quickstart

    run_quickstart(output, seed, steps, pairs)
