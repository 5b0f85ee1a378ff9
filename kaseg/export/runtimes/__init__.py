"""Models that run exported files and look like [`KASegModel`]."""

from kaseg.export.runtimes.base import ExportedModel
from kaseg.export.runtimes.litert import KASegLiteRTModel
from kaseg.export.runtimes.onnx import KASegOnnxModel
from kaseg.export.runtimes.openvino import KASegOpenVINOModel

# By the format that they run.
RUNTIMES: dict[str, type[ExportedModel]] = {
    runtime.format: runtime for runtime in (KASegOnnxModel, KASegOpenVINOModel, KASegLiteRTModel)
}

__all__ = ["RUNTIMES", "KASegLiteRTModel", "KASegOnnxModel", "KASegOpenVINOModel"]
