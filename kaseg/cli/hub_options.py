"""What the commands that send something to the Hub share: their flags, and how it is sent or listed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..uploading import Destination

Private = Annotated[
    bool | None,
    typer.Option("--private/--public", help="A new repository's visibility; by default that of its namespace."),
]
Revision = Annotated[str | None, typer.Option(help="Branch to send to, made if it is missing; main by default.")]
CreatePr = Annotated[bool, typer.Option("--create-pr", help="Open a pull request on an existing repository.")]
Message = Annotated[str | None, typer.Option("--commit-message", "-m", help="Commit message.")]
WithCode = Annotated[
    bool, typer.Option("--with-code", help="Send the model files too: it then runs without kaseg (trust_remote_code).")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be sent; nothing is.")]


def send_files(
    files: Mapping[str, Path | bytes],
    destination: Destination,
    message: str | None,
    dry_run: bool,
    default_message: str = "Upload model",
) -> None:
    """Send files, or show what would be sent, and say where they lie."""
    from ..uploading import upload
    from .output import console

    if dry_run:
        _show_plan(files, destination)
        return
    commit = upload(files, destination, message or default_message)
    console.print(commit.pr_url or commit.commit_url, soft_wrap=True)


def _show_plan(files: Mapping[str, Path | bytes], destination: Destination) -> None:
    """List the files that would be sent, with their sizes, and where they would go; a ValueError if that is no id of a
    repository."""
    from huggingface_hub.utils import validate_repo_id
    from rich.filesize import decimal
    from rich.table import Table

    from .output import console

    validate_repo_id(destination.repo_id)
    sizes = {path: len(f) if isinstance(f, bytes) else f.stat().st_size for path, f in files.items()}
    table = Table()
    table.add_column("File", no_wrap=True)
    table.add_column("Size", justify="right")
    for path, size in sorted(sizes.items()):
        table.add_row(path, decimal(size))
    table.add_section()
    table.add_row(f"{len(sizes)} files", decimal(sum(sizes.values())))
    console.print(table)
    console.print(f"Would be sent to {_describe(destination)}. Nothing was sent.", soft_wrap=True)


def _describe(destination: Destination) -> str:
    if destination.create_pr:
        return f"{destination.repo_id}, as a pull request"
    visibility = {None: "", True: " (private if it is new)", False: " (public if it is new)"}[destination.private]
    return f"{destination.repo_id}{visibility}, branch {destination.revision or 'main'}"
