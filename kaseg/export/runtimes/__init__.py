"""Models that run exported files and look like [`KASegModel`]."""

from __future__ import annotations

from kaseg.export.runtimes.onnx import KASegOnnxModel
from kaseg.export.runtimes.openvino import KASegOpenVINOModel

__all__ = ["KASegOnnxModel", "KASegOpenVINOModel"]
