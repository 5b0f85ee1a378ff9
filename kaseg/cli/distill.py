"""`kaseg distill`."""

from __future__ import annotations

import typer

SUMMARY = """Train a student by knowledge adaptation: an autoencoder is fitted to the teacher's features, then the
student learns from its code and from the labels."""


def distill(ctx: typer.Context) -> None:
    """Train a student by knowledge adaptation from a recipe, flags, or both."""
    from ..experiments.recipe import DataArguments, ModelArguments, TeacherArguments
    from ..trainer import KnowledgeAdaptationConfig
    from .runs import call_run_command

    parts = (ModelArguments, DataArguments, TeacherArguments, KnowledgeAdaptationConfig)
    call_run_command(ctx, SUMMARY, parts, "distill", elsewhere={})
