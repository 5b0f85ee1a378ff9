"""Packages that an export needs and that kaseg itself does not."""

from __future__ import annotations

import importlib
from types import ModuleType

_INSTALL = {
    "executorch": "pip install executorch",
    "nncf": "pip install nncf",
}
_EXTRA = 'pip install "kaseg[export]", or pip install ".[export]" in a clone of kaseg'


class MissingPackageError(ImportError):
    """A package that a format or a runtime needs is not installed; the message says how to get it."""


def require(name: str, purpose: str) -> ModuleType:
    """The module `name`.

    Args:
        name: Module, such as `"onnxruntime"`.
        purpose: What it is needed for, as in "... is needed to run ONNX models".

    Raises:
        MissingPackageError: it cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MissingPackageError(
            f"{package} is needed {purpose}, and it cannot be imported ({error}). Install it: "
            f"{_INSTALL.get(package, _EXTRA)}"
        ) from error
