"""Packages that an export needs and that kaseg itself does not."""

import contextlib
import importlib
import io
import logging
from collections.abc import Iterator
from types import ModuleType

_INSTALL = {
    **dict.fromkeys(
        ("litert_torch", "ai_edge_litert", "ai_edge_quantizer"),
        'pip install "kaseg[litert]", or pip install ".[litert]" in a clone of kaseg',
    ),
    "executorch": "pip install executorch",
    "nncf": "pip install nncf",
}
_EXTRA = 'pip install "kaseg[export]", or pip install ".[export]" in a clone of kaseg'


class MissingPackageError(ImportError):
    """A package that a format or a runtime needs is not installed; the message says how to get it."""


def require(name: str, purpose: str) -> ModuleType:
    """The module `name`, or a MissingPackageError that says what it is needed for (`purpose`, such as `"to run ONNX
    models"`) and how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MissingPackageError(
            f"{package} is needed {purpose}, and it cannot be imported ({error}). Install it: "
            f"{_INSTALL.get(package, _EXTRA)}"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps from users what a package prints and logs to the root logger for its developers."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.root.setLevel(level)
