"""`kaseg push` and `kaseg publish`."""

from typing import Annotated

import typer

from .hub_options import CreatePr, DryRun, Message, Private, Revision, WithCode, send_files


def push(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER", help="output_dir of a run, or a shipped checkpoint; with --space a Hub id, too."
        ),
    ],
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
        str | None, typer.Option(metavar="HEIGHT,WIDTH", help="--as-transformers: its image processor resizes to this.")
    ] = None,
    space: Annotated[
        bool, typer.Option("--space", help="Send the page of kaseg demo with this model, as a Gradio Space.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Send a checkpoint to the Hub: weights, config, image processor, card, recipe and results; nothing else."""
    from ..hub import files_as_transformers, files_for_space, files_to_push
    from ..uploading import Destination

    destination = Destination(repo, "space" if space else "model", private, revision, create_pr)
    if space:
        if as_transformers or with_code or size is not None:
            raise ValueError("--space sends the demo: leave --as-transformers, --with-code and --size.")
        send_files(files_for_space(folder), destination, commit_message, dry_run, "Upload demo")
        return
    if not as_transformers:
        if size is not None:
            raise ValueError("--size would change nothing here: it is for --as-transformers.")
        send_files(files_to_push(folder, with_code), destination, commit_message, dry_run)
        return
    if with_code:
        raise ValueError("--as-transformers needs no code of ours: leave --with-code.")
    from .common import parse_size

    files = files_as_transformers(folder, parse_size("--size", size))
    send_files(files, destination, commit_message, dry_run)


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
