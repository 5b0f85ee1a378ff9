"""Exports to ONNX, OpenVINO, torch.export, ExecuTorch, LiteRT, transformers and transformers.js, and their runtimes.

Each is checked against the model. The packages of a format are imported when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaseg.lazy import import_on_use

if TYPE_CHECKING:
    from kaseg.export.calibration import Int8Data, QuantizationLossError
    from kaseg.export.exporter import export_model
    from kaseg.export.options import ExportOptions
    from kaseg.export.packages import MissingPackageError
    from kaseg.export.parity import ParityError
    from kaseg.export.runtimes import KASegLiteRTModel, KASegOnnxModel, KASegOpenVINOModel

# A runtime is loaded without what exporting needs (evaluation, datasets).
__getattr__, __dir__ = import_on_use(
    __name__,
    {
        "ExportOptions": "options",
        "Int8Data": "calibration",
        "KASegLiteRTModel": "runtimes",
        "KASegOnnxModel": "runtimes",
        "KASegOpenVINOModel": "runtimes",
        "MissingPackageError": "packages",
        "ParityError": "parity",
        "QuantizationLossError": "calibration",
        "export_model": "exporter",
    },
)

__all__ = [
    "ExportOptions",
    "Int8Data",
    "KASegLiteRTModel",
    "KASegOnnxModel",
    "KASegOpenVINOModel",
    "MissingPackageError",
    "ParityError",
    "QuantizationLossError",
    "export_model",
]
