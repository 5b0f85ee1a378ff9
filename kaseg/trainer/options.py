"""Fields of argument dataclasses, each described once: for the command line's help and for the docstring."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import MISSING, field, fields
from typing import Any, TypeVar

T = TypeVar("T", bound=type)


def option(default: Any, help: str) -> Any:
    """A field of an argument dataclass; lists and dictionaries are copied for each instance."""
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.copy(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


def fields_for(target: Callable[..., Any], arguments: Any) -> dict[str, Any]:
    """The fields of an argument dataclass that a function or a class takes under the same names, with their values."""
    taken = inspect.signature(target).parameters
    return {item.name: getattr(arguments, item.name) for item in fields(arguments) if item.name in taken}


def with_fields_in_doc(config: T) -> T:
    """Adds a dataclass's own fields to its docstring, each with type, default and help."""
    lines, titles = [], vars(config).get("help_groups", {})
    for item in fields(config):
        if item.name in vars(config)["__annotations__"]:
            lines += [f"\n    > {titles[item.name]}\n"] if item.name in titles else []
            default = item.default if item.default_factory is MISSING else item.default_factory()
            lines.append(f"    {item.name} (`{item.type}`, defaults to `{default!r}`): {item.metadata['help']}")
    config.__doc__ = "\n".join([config.__doc__ or "", *lines, ""])
    return config
