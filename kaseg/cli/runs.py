"""`kaseg train` and `kaseg distill`: commands made of a run's argument dataclasses."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import typer

DESCRIPTION = """{summary}

A run is described by a recipe, flags, or both: every field below is a key of the recipe and a flag. A SWITCH --x also
has the form --no-x; a list is written 336,448 or as repeated flags, a dictionary as YAML or JSON; null unsets a field.

Model, recipe and results are written to output_dir. The same command goes on with a run that was stopped.
"""


def train(ctx: typer.Context) -> None:
    """Train a teacher or a plain student from a recipe, flags, or both."""
    from ..experiments.recipe import DataArguments, ModelArguments, TeacherArguments
    from ..trainer import KnowledgeAdaptationConfig, SegmentationConfig

    parts = (ModelArguments, DataArguments, SegmentationConfig)
    elsewhere = {"kaseg distill": (TeacherArguments, KnowledgeAdaptationConfig)}
    _call(ctx, "Train a teacher or a plain student.", parts, "train", elsewhere)


def distill(ctx: typer.Context) -> None:
    """Train a student by knowledge adaptation from a recipe, flags, or both."""
    from ..experiments.recipe import DataArguments, ModelArguments, TeacherArguments
    from ..trainer import KnowledgeAdaptationConfig

    summary = (
        "Train a student by knowledge adaptation: an autoencoder is fitted to the teacher's features, then the student "
        "learns from its code and from the labels."
    )
    _call(ctx, summary, (ModelArguments, DataArguments, TeacherArguments, KnowledgeAdaptationConfig), "distill", {})


def _call(
    ctx: typer.Context,
    summary: str,
    parts: Sequence[type],
    name: Literal["train", "distill"],
    elsewhere: Mapping[str, Sequence[type]],
) -> None:
    """Does a run with the arguments of `ctx`, as fields of `parts`, and reports the results."""

    # Here, since they take long to import.
    from .flags import build_app, normalize_flags
    from .output import console, print_run

    def run_and_report(*arguments: Any, resume: bool) -> None:
        from ..experiments import run  # help needs none of it

        args = arguments[-1]
        was_finished = resume and (Path(args.output_dir) / run.RESULTS_NAME).is_file()
        if args.process_index == 0:
            console.print(f"Run in {args.output_dir}", soft_wrap=True)
        results = getattr(run, name)(*arguments, resume=resume)
        if args.process_index == 0:
            print_run(results, Path(args.output_dir))
            if was_finished:
                console.print("This run was finished before; --no-resume trains anew.", style="yellow")

    command = build_app(parts, run_and_report, DESCRIPTION.format(summary=summary), elsewhere)
    command(args=normalize_flags(ctx.args), prog_name=ctx.command_path)
