"""What all commands share: how errors end a command, and the version."""

from typing import Any

import typer
from typer.core import TyperArgument, TyperGroup, TyperOption


class QuickGroup(TyperGroup):
    """Commands whose help imports little."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # A flag of Typer's own that is not given is None, and to make a bool of it Typer would import pydantic, which
        # takes longer than the rest of a command's --help.
        for flag in self.get_params(ctx):
            assert isinstance(flag, TyperOption | TyperArgument)
            if flag.type_descriptor.annotation is bool and flag.default is None:
                flag.default = False
        return super().parse_args(ctx, args)


class ErrorReportingGroup(QuickGroup):
    """Reports the errors that users can do something about in red, without a traceback, and exits with 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, ImportError) as error:
            if ctx.params["debug"]:
                raise
            from rich.console import Console
            from rich.text import Text

            console = Console(stderr=True)
            # No wrapping: paths and commands in messages are there to be copied.
            console.print(Text.assemble(("Error: ", "bold red"), (_message(error), "red")), soft_wrap=True)
            console.print("For the traceback: kaseg --debug ...", style="dim")
            raise typer.Exit(1) from None


def show_version(wanted: bool) -> None:
    """Prints the version and exits, if it is wanted."""
    if wanted:
        from ..version import __version__

        typer.echo(f"kaseg {__version__}")
        raise typer.Exit


def _message(error: Exception) -> str:
    return "\n".join([str(error) or repr(error), *getattr(error, "__notes__", [])])
