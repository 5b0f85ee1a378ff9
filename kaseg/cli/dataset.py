"""`kaseg dataset`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .hub_options import CreatePr, DryRun, Message, Revision, send_files

dataset = typer.Typer(help="Data sets on the Hub.", no_args_is_help=True)


@dataset.callback()
def _group() -> None:
    """Data sets on the Hub."""


@dataset.command()
def push(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name, folder or Hub id of the data set.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Repository: namespace/name.")],
    data_dir: Annotated[Path | None, typer.Option(help="Folder of a named data set.")] = None,
    split: Annotated[str | None, typer.Option(help="Only this split; all by default.")] = None,
    label_space: Annotated[str | None, typer.Option(help="Classes where they are not known: file or name.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of data that kaseg does not know.")] = None,
    private: Annotated[bool, typer.Option("--private/--public", help="A new repository's visibility.")] = True,
    revision: Revision = None,
    create_pr: CreatePr = False,
    commit_message: Message = None,
    dry_run: DryRun = False,
) -> None:
    """Send a data set to the Hub as Parquet files that hold pictures, masks of class ids and ids, with a card."""
    from ..hub.datasets import dataset_files
    from ..uploading import Destination

    destination = Destination(repo, "dataset", private, revision, create_pr)
    with dataset_files(name, repo, data_dir=data_dir, split=split, label_space=label_space, license=licence) as files:
        send_files(files, destination, commit_message, dry_run, "Upload data set")


@dataset.command()
def weights(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name, folder or Hub id of the data set.")],
    data_dir: Annotated[Path | None, typer.Option(help="Folder of a named data set.")] = None,
    split: Annotated[str, typer.Option(help="Split to count.")] = "train",
    label_space: Annotated[str | None, typer.Option(help="Classes where they are not known: file or name.")] = None,
    power: Annotated[float, typer.Option(help="1: median frequency balancing; less favours rare classes less.")] = 1.0,
) -> None:
    """Count the pixels of every class and show the class weights that make up for it, ready for a recipe."""
    from ..data import count_classes, get_label_space, load_segmentation_dataset, median_frequency_weights
    from .output import console

    space = get_label_space(name, data_dir, label_space)
    samples = load_segmentation_dataset(name, split=split, data_dir=data_dir, label_space=label_space)
    counts = count_classes(samples, len(space.names))
    values = [round(value, 2) for value in median_frequency_weights(counts, power)]
    for index, class_name in enumerate(space.names):
        share = 100 * counts.pixels[index] / counts.pixels.sum()
        console.print(f"{class_name}: {share:.2f} % of the labelled pixels, weight {values[index]}", highlight=False)
    console.print(f"class_weights: {values}", highlight=False, soft_wrap=True)
