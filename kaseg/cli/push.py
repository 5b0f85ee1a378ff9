"""`kaseg push`."""

from __future__ import annotations

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
    dry_run: DryRun = False,
) -> None:
    """Send a checkpoint to the Hub: weights, config, image processor, card, recipe and results; nothing else."""
    from ..uploading import Destination

    send(folder, Destination(repo, "model", private, revision, create_pr), commit_message, with_code, dry_run)


def send(folder: str, destination: Destination, message: str | None, with_code: bool, dry_run: bool) -> None:
    """Send a checkpoint, or show what would be sent, and say where it lies."""
    from .. import hub
    from .hub_options import show_plan
    from .output import console

    if dry_run:
        show_plan(hub.files_to_push(folder, with_code), destination)
        return
    commit = hub.push(folder, destination, message or "Upload model", with_code)
    console.print(commit.pr_url or commit.commit_url, soft_wrap=True, highlight=False)
