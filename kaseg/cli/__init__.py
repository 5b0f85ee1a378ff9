"""The command line. Each command has its file, which imports what it needs when it runs, so that help is quick."""

from typing import Annotated

import typer

from ..allocator import keep_freed_memory
from .app import ErrorReportingGroup, show_version
from .benchmark import benchmark
from .compare import compare
from .dataset import dataset
from .demo import demo
from .evaluate import evaluate
from .export import export
from .list_models import list_models
from .predict import predict
from .push import publish, push
from .quickstart import quickstart
from .runs import distill, train
from .submit import submit

app = typer.Typer(
    name="kaseg",
    cls=ErrorReportingGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
)


@app.callback()
def kaseg(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="KASEG_DEBUG", help="Show the traceback of expected errors, too.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Small, fast segmentation models by knowledge adaptation (He et al., CVPR 2019)."""


# The flags of these two come from dataclasses that are slow to import, so everything is passed on to a command that is
# built when one of them is called, their --help too.
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
app.command(context_settings=_PASS_ON, add_help_option=False)(train)
app.command(context_settings=_PASS_ON, add_help_option=False)(distill)
app.command()(compare)
app.command()(benchmark)
app.command()(evaluate)
app.command()(submit)
app.command()(predict)
app.command()(export)
app.command()(demo)
app.command("list")(list_models)
app.command()(push)
app.command()(publish)
app.add_typer(dataset, name="dataset")
app.command()(quickstart)


def main() -> None:
    """The console script."""
    keep_freed_memory()
    app()


__all__ = ["app", "main"]
