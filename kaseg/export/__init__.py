"""Exports to ONNX, OpenVINO, torch.export, ExecuTorch, LiteRT, transformers and transformers.js, and their runtimes.

Each is checked against the model. The packages of a format are imported when it is used.
"""

from typing import TYPE_CHECKING

from kaseg.lazy import import_on_use

if TYPE_CHECKING:
    from kaseg.export.calibration import Int8Data as Int8Data
    from kaseg.export.calibration import QuantizationLossError as QuantizationLossError
    from kaseg.export.exporter import export_model as export_model
    from kaseg.export.options import ExportOptions as ExportOptions
    from kaseg.export.packages import MissingPackageError as MissingPackageError
    from kaseg.export.parity import ParityError as ParityError
    from kaseg.export.runtimes import KASegLiteRTModel as KASegLiteRTModel
    from kaseg.export.runtimes import KASegOnnxModel as KASegOnnxModel
    from kaseg.export.runtimes import KASegOpenVINOModel as KASegOpenVINOModel

# A runtime is loaded without what exporting needs (evaluation, datasets).
__getattr__, __dir__, __all__ = import_on_use(
    __name__,
    {
        "calibration": ["Int8Data", "QuantizationLossError"],
        "exporter": ["export_model"],
        "options": ["ExportOptions"],
        "packages": ["MissingPackageError"],
        "parity": ["ParityError"],
        "runtimes": ["KASegLiteRTModel", "KASegOnnxModel", "KASegOpenVINOModel"],
    },
)
