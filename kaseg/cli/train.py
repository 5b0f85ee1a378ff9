"""`kaseg train`."""

from __future__ import annotations

import typer


def train(ctx: typer.Context) -> None:
    """Train a teacher or a plain student from a recipe, flags, or both."""
    from ..experiments.recipe import DataArguments, ModelArguments, TeacherArguments
    from ..trainer import KnowledgeAdaptationConfig, SegmentationConfig
    from .runs import call_run_command

    call_run_command(
        ctx,
        summary="Train a teacher or a plain student.",
        parts=(ModelArguments, DataArguments, SegmentationConfig),
        name="train",
        elsewhere={"kaseg distill": (TeacherArguments, KnowledgeAdaptationConfig)},
    )
