"""`kaseg publish`."""

from __future__ import annotations

from typing import Annotated

import typer

from .hub_options import CreatePr, DryRun, Message, Private, Revision, WithCode, send_files


def publish(
    checkpoint: Annotated[str, typer.Argument(metavar="hub_configs/NAME", help="Folder or name of one of ours.")],
    namespace: Annotated[str | None, typer.Option(help="User or organization; our own by default.")] = None,
    private: Private = None,
    revision: Revision = None,
    create_pr: CreatePr = False,
    commit_message: Message = None,
    with_code: WithCode = False,
    dry_run: DryRun = False,
) -> None:
    """Send a checkpoint of hub_configs/ to the repository of its name."""
    from ..hub import checkpoint_to_publish, files_to_push
    from ..uploading import Destination

    folder, repo = checkpoint_to_publish(checkpoint)
    if namespace is not None:
        repo = f"{namespace}/{folder.resolve().name}"
    destination = Destination(repo, "model", private, revision, create_pr)
    send_files(files_to_push(folder, with_code), destination, commit_message, dry_run)
