"""`kaseg push`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .hub_options import CreatePr, DryRun, Message, Private, Revision, WithCode

if TYPE_CHECKING:
    from ..uploading import Destination


def push(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="output_dir of a run, or a shipped checkpoint.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Repository: namespace/name.")],
    private: Private = None,
    revision: Revision = None,
    create_pr: CreatePr = False,
    commit_message: Message = None,
    with_code: WithCode = False,
    as_transformers: Annotated[
        bool, typer.Option("--as-transformers", help="Send it as a model of transformers' own; MobileNetV2 students.")
    ] = False,
    size: Annotated[
        str | None,
        typer.Option(metavar="HEIGHT,WIDTH", help="--as-transformers: its image processor resizes to this."),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Send a checkpoint to the Hub: weights, config, image processor, card, recipe and results; nothing else."""
    from ..uploading import Destination

    destination = Destination(repo, "model", private, revision, create_pr)
    if not as_transformers:
        if size is not None:
            raise ValueError("--size would change nothing here: it is for --as-transformers.")
        send(folder, destination, commit_message, with_code, dry_run)
        return
    if with_code:
        raise ValueError("--as-transformers needs no code of ours: leave --with-code.")
    from ..hub import files_as_transformers
    from .protocol_options import pixels

    sides = pixels("--size", size)
    files = files_as_transformers(folder, (sides, sides) if isinstance(sides, int) else sides)
    send_files(files, destination, commit_message, dry_run)


def send(folder: str, destination: Destination, message: str | None, with_code: bool, dry_run: bool) -> None:
    """Send a checkpoint, or show what would be sent, and say where it lies."""
    from ..hub import files_to_push

    send_files(files_to_push(folder, with_code), destination, message, dry_run)


def send_files(files: Mapping[str, Path | bytes], destination: Destination, message: str | None, dry_run: bool) -> None:
    """Send files, or show what would be sent, and say where they lie."""
    from ..uploading import upload
    from .hub_options import show_plan
    from .output import console

    if dry_run:
        show_plan(files, destination)
        return
    commit = upload(files, destination, message or "Upload model")
    console.print(commit.pr_url or commit.commit_url, soft_wrap=True, highlight=False)
