"""Exports to ONNX, OpenVINO, torch.export and ExecuTorch, each checked against the model, and their runtimes.

The packages of a format are imported when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kaseg.export.exporter import Int8Data, QuantizationLossError, export_model
    from kaseg.export.options import ExportOptions
    from kaseg.export.packages import MissingPackageError
    from kaseg.export.parity import ParityError
    from kaseg.export.runtimes import KASegOnnxModel, KASegOpenVINOModel

_FILES = {
    "ExportOptions": "options",
    "Int8Data": "exporter",
    "KASegOnnxModel": "runtimes",
    "KASegOpenVINOModel": "runtimes",
    "MissingPackageError": "packages",
    "ParityError": "parity",
    "QuantizationLossError": "exporter",
    "export_model": "exporter",
}


def __getattr__(name: str) -> Any:
    # A runtime is loaded without what exporting needs (evaluation, datasets).
    if name in _FILES:
        return getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "ExportOptions",
    "Int8Data",
    "KASegOnnxModel",
    "KASegOpenVINOModel",
    "MissingPackageError",
    "ParityError",
    "QuantizationLossError",
    "export_model",
]
