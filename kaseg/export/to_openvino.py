"""OpenVINO files out of ONNX files."""

from __future__ import annotations

from pathlib import Path

from kaseg.export.packages import require


def write_openvino(onnx_file: Path, file: Path, compress_to_fp16: bool) -> None:
    """Write an ONNX model as OpenVINO's `.xml` and `.bin`; `compress_to_fp16` stores weights in float16, which are
    expanded when the model is loaded."""
    ov = require("openvino", "to write OpenVINO models")
    ov.save_model(ov.convert_model(str(onnx_file)), str(file), compress_to_fp16=compress_to_fp16)
