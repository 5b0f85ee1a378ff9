"""`kaseg dataset`."""

from typing import Annotated

import typer

from . import common
from .app import QuickGroup
from .hub_options import CreatePr, DryRun, Message, Revision, send_files

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name, folder or Hub id of the dataset.")]

dataset = typer.Typer(cls=QuickGroup, help="Class weights of a dataset; datasets on the Hub.", no_args_is_help=True)


@dataset.callback()
def _group() -> None:
    """Class weights of a dataset; datasets on the Hub."""


@dataset.command()
def push(
    name: NameArgument,
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Repository: namespace/name.")],
    data_dir: common.DataDir = None,
    split: Annotated[str | None, typer.Option(help="Only this split; all by default.")] = None,
    label_space: common.LabelSpaceFile = None,
    license: Annotated[
        str | None, typer.Option("--license", "--licence", help="License of data that kaseg does not know.")
    ] = None,
    private: Annotated[bool, typer.Option("--private/--public", help="A new repository's visibility.")] = True,
    revision: Revision = None,
    create_pr: CreatePr = False,
    commit_message: Message = None,
    dry_run: DryRun = False,
) -> None:
    """Send a dataset to the Hub as Parquet files that hold images, masks of class ids and ids, with a card."""
    from ..hub.datasets import dataset_files
    from ..uploading import Destination

    destination = Destination(repo, "dataset", private, revision, create_pr)
    with dataset_files(name, repo, data_dir=data_dir, split=split, label_space=label_space, license=license) as files:
        send_files(files, destination, commit_message, dry_run, "Upload dataset")


@dataset.command()
def weights(
    name: NameArgument,
    data_dir: common.DataDir = None,
    split: Annotated[str, typer.Option(help="Split to count.")] = "train",
    label_space: common.LabelSpaceFile = None,
    power: Annotated[float, typer.Option(help="1: median frequency balancing; less favors rare classes less.")] = 1.0,
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
        console.print(f"{class_name}: {share:.2f} % of the labelled pixels, weight {values[index]}")
    console.print(f"class_weights: {values}", soft_wrap=True)
