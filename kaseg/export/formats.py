"""What each format needs, how its files are written, and how they are run. `options.py` names the formats."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kaseg.configuration_kaseg import KASegConfig
from kaseg.export.calibration import CalibrationInputs
from kaseg.export.options import ExportOptions
from kaseg.export.quantize_onnx import choose_method
from kaseg.export.runtimes import RUNTIMES, KASegOnnxModel
from kaseg.export.runtimes.base import ExportedModel
from kaseg.export.runtimes.litert import LITERT_NAME
from kaseg.export.runtimes.onnx import ONNX_NAME
from kaseg.export.runtimes.openvino import OPENVINO_NAME
from kaseg.export.to_executorch import load_executorch, write_executorch
from kaseg.export.to_litert import quantize_litert, write_litert
from kaseg.export.to_onnx import write_onnx
from kaseg.export.to_openvino import quantize_openvino, write_openvino
from kaseg.export.to_transformers import load_transformers
from kaseg.export.to_transformers_js import JS_FILES, write_float16

_ONNX = ("onnx", "onnxscript", "onnxruntime")
_NEEDS = {
    "onnx": _ONNX,
    "openvino": ("onnx", "onnxscript", "openvino"),
    "executorch": ("executorch.exir",),
    "litert": ("litert_torch", "ai_edge_litert.interpreter"),
    "transformers-js": _ONNX,
}
_QUANTIZERS = {"openvino": ("nncf",), "litert": ("ai_edge_quantizer.quantizer",)}
_TORCH_EXPORT_NAME = "model.pt2"
_EXECUTORCH_NAME = "model.pte"
# What was found out while quantizing, for `export.json`.
_Notes = dict[str, Any]


def needs(options: ExportOptions) -> tuple[str, ...]:
    """Names of the modules that an export needs and that kaseg itself does not."""
    quantizers = _QUANTIZERS.get(options.format, ()) if options.dtype == "int8" else ()
    return (*_NEEDS.get(options.format, ()), *quantizers)


def write_program(
    program: torch.export.ExportedProgram, folder: Path, options: ExportOptions, calibration: CalibrationInputs | None
) -> tuple[list[str], _Notes]:
    """Write a traced model into an empty folder, for int8 with what `calibration` says; returns the names of the files
    in it, and how they were quantized."""
    how = _WRITERS[options.format](program, folder, options, calibration)
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()), how


def load_export(
    folder: Path, options: ExportOptions, config: KASegConfig, record: dict[str, Any]
) -> dict[str, ExportedModel]:
    """The models of an export, by the type they compute in. `config` is the model's; that of transformers and
    transformers.js in the folder is another."""
    if options.format in RUNTIMES:
        return {options.dtype: RUNTIMES[options.format].from_pretrained(folder)}
    if options.format == "transformers-js":
        files = {dtype: name for dtype, name in JS_FILES.items() if (folder / name).exists()}
        return {dtype: KASegOnnxModel(folder, config, record, file=name) for dtype, name in files.items()}
    return {options.dtype: _FunctionModel(folder, config, record, _LOADERS[options.format](folder))}


class _FunctionModel(ExportedModel):
    """An export that is run as a function of tensors."""

    def __init__(self, folder: Path, config: KASegConfig, record: dict[str, Any], function: Callable[..., Any]) -> None:
        super().__init__(folder, config, record)
        self.function = function

    def run(self, inputs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.function(torch.from_numpy(inputs)).numpy()


def _write_torch_export(program: Any, folder: Path, *_: Any) -> _Notes:
    torch.export.save(program, folder / _TORCH_EXPORT_NAME)
    return {}


def _write_executorch(program: Any, folder: Path, *_: Any) -> _Notes:
    write_executorch(program, folder / _EXECUTORCH_NAME)
    return {}


def _write_onnx(program: Any, folder: Path, options: ExportOptions, calibration: CalibrationInputs | None) -> _Notes:
    file, float_file = folder / ONNX_NAME, folder / "float32.onnx"
    write_onnx(program, float_file, options)
    if calibration is None:
        float_file.rename(file)
        return {}
    how = _quantize_onnx(float_file, file, calibration)
    float_file.unlink()
    return how


def _write_transformers_js(
    program: Any, folder: Path, options: ExportOptions, calibration: CalibrationInputs | None
) -> _Notes:
    float_file = folder / JS_FILES["float32"]
    float_file.parent.mkdir()
    write_onnx(program, float_file, options)
    write_float16(float_file, folder / JS_FILES["float16"])
    return {} if calibration is None else _quantize_onnx(float_file, folder / JS_FILES["int8"], calibration)


def _write_openvino(
    program: Any, folder: Path, options: ExportOptions, calibration: CalibrationInputs | None
) -> _Notes:
    onnx_file, file = folder / "float32.onnx", folder / OPENVINO_NAME
    write_onnx(program, onnx_file, options)
    how = {}
    if calibration is None:
        write_openvino(onnx_file, file, compress_to_fp16=options.dtype == "bf16")
    else:
        float_file = folder / "float32.xml"
        write_openvino(onnx_file, float_file, compress_to_fp16=False)
        quantize_openvino(float_file, file, calibration)
        how = {"calibration_method": "nncf mixed"}
        for rest in (float_file, float_file.with_suffix(".bin")):
            rest.unlink()
    onnx_file.unlink()
    return how


def _write_litert(program: Any, folder: Path, options: ExportOptions, calibration: CalibrationInputs | None) -> _Notes:
    file, float_file = folder / LITERT_NAME, folder / "float32.tflite"
    write_litert(program, float_file, options.input_name)
    if calibration is None:
        float_file.rename(file)
        return {}
    quantize_litert(float_file, file, calibration, options.input_name)
    float_file.unlink()
    return {"calibration_method": "minmax"}


def _quantize_onnx(float_file: Path, file: Path, calibration: CalibrationInputs) -> _Notes:
    method, agreement = choose_method(float_file, file, calibration, calibration.methods)
    return {"calibration_method": method, "class_agreement_of_methods": agreement}


_LOADERS: dict[str, Callable[[Path], Callable[..., Any]]] = {
    "torch-export": lambda folder: torch.export.load(folder / _TORCH_EXPORT_NAME).module(),
    "executorch": lambda folder: load_executorch(folder / _EXECUTORCH_NAME),
    "transformers": load_transformers,
}
_WRITERS: dict[str, Callable[..., _Notes]] = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "torch-export": _write_torch_export,
    "executorch": _write_executorch,
    "litert": _write_litert,
    "transformers-js": _write_transformers_js,
}
