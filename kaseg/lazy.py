"""Names of a package that are imported on first use (PEP 562). Standard library only."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def import_on_use(
    package: str, modules: Mapping[str, str], aliases: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package that imports its names when they are first asked for.

    Args:
        package: The package's `__name__`.
        modules: Public name -> module of the package that defines it.
        aliases: Second name -> one of the names in `modules`.

    Example:

    ```python
    __getattr__, __dir__ = import_on_use(__name__, {"KASegModel": "modeling_kaseg"})
    ```
    """
    aliases = aliases or {}

    def get_attribute(name: str) -> Any:
        target = aliases.get(name, name)
        if target in modules.values():
            return importlib.import_module(f"{package}.{target}")
        if target not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{modules[target]}"), target)
        # Found without this function from now on.
        setattr(sys.modules[package], name, value)
        return value

    def list_attributes() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules, *aliases})

    return get_attribute, list_attributes
