"""Names of a package that are imported on first use (PEP 562). Standard library only."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def import_on_use(
    package: str, modules: Mapping[str, Sequence[str]], aliases: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package that imports its names when they are first asked for.

    Args:
        package: The package's `__name__`.
        modules: Module of the package -> the public names that it defines.
        aliases: Second name -> one of these names.

    Example:

    ```python
    __getattr__, __dir__, __all__ = import_on_use(__name__, {"modeling_kaseg": ["KASegModel"]})
    ```
    """
    aliases = aliases or {}
    module_of = {name: module for module, names in modules.items() for name in names}
    public = sorted([*module_of, *aliases])

    def get_attribute(name: str) -> Any:
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        target = aliases.get(name, name)
        if target not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{module_of[target]}"), target)
        # Found without this function from now on.
        setattr(sys.modules[package], name, value)
        return value

    def list_attributes() -> list[str]:
        return sorted({*vars(sys.modules[package]), *public})

    return get_attribute, list_attributes, public
