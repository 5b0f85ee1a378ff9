"""OpenVINO files out of ONNX files, and their int8 quantization by NNCF."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kaseg.export.packages import require
from kaseg.export.runtimes.openvino import openvino_core


def write_openvino(onnx_file: Path, file: Path, compress_to_fp16: bool) -> None:
    """Write an ONNX model as OpenVINO's `.xml` and `.bin`; `compress_to_fp16` stores weights in float16, which are
    expanded when the model is loaded."""
    ov = require("openvino", "to write OpenVINO models")
    ov.save_model(ov.convert_model(str(onnx_file)), str(file), compress_to_fp16=compress_to_fp16)


def quantize_openvino(float_file: Path, file: Path, calibration: Sequence[np.ndarray]) -> None:
    """Write an int8 version: NNCF's preset "mixed" (symmetric weights per channel, asymmetric activations), with its
    bias correction; the ranges of the activations are those of the inputs `calibration`."""
    ov = require("openvino", "to quantize OpenVINO models")
    nncf = require("nncf", "to quantize OpenVINO models")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    quantized = nncf.quantize(
        openvino_core().read_model(str(float_file)),
        nncf.Dataset(calibration),
        preset=nncf.QuantizationPreset.MIXED,
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(calibration),
    )
    ov.save_model(quantized, str(file), compress_to_fp16=False)
