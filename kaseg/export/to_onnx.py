"""ONNX files out of `torch.export` programs."""

import logging
import operator
import re
from pathlib import Path
from typing import Any

import torch

from kaseg.export.options import ExportOptions
from kaseg.export.packages import require

# The exporter's own default in torch 2.15.
OPSET = 20
_AXES = {"logits": {0: "batch", 2: "height", 3: "width"}, "mask": {0: "batch", 1: "height", 2: "width"}}


def write_onnx(program: torch.export.ExportedProgram, file: Path, options: ExportOptions) -> None:
    """Write the program as ONNX, opset 20, float32; BatchNorm is folded into the convolutions by the exporter. A
    ValueError if an operator of the model has no ONNX form."""
    onnx = require("onnx", "to write ONNX models")
    require("onnxscript", "to write ONNX models")
    logging.getLogger("onnxscript").setLevel(logging.WARNING)
    try:
        exported = torch.onnx.export(
            program,
            (),
            input_names=[options.input_name],
            output_names=[options.output],
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
            custom_translation_table={operator.floordiv: _floor_division},
        )
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(f"The model has no ONNX form: {str(error).strip().partition(chr(10))[0]}") from error
    assert exported is not None
    model = exported.model_proto
    _name_axes(model, _AXES[options.output])
    for node in model.graph.node:
        node.ClearField("metadata_props")  # the exporter's notes on where each comes from
    onnx.checker.check_model(model)
    onnx.save(model, str(file))


def _floor_division(dividend, divisor):  # type: ignore[no-untyped-def]
    """`//` of whole numbers. The exporter's own is ONNX's Div, which rounds toward zero: -319 // 4 would be -79, and
    maps cut to ceil(319 / 4) rows a row too short. ONNX's Mod takes the divisor's sign, as Python's does."""
    op = require("onnxscript", "to write ONNX models").opset18
    return op.Div(op.Sub(dividend, op.Mod(dividend, divisor)), divisor)


def _name_axes(model: Any, axes: dict[int, str]) -> None:
    """Give the free axes their names instead of those of torch's symbols, also within the shapes of other tensors."""
    shape = model.graph.input[0].type.tensor_type.shape
    names = {shape.dim[axis].dim_param: name for axis, name in axes.items() if shape.dim[axis].dim_param}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]
            elif dim.dim_param and value in model.graph.output:
                for symbol, name in names.items():
                    dim.dim_param = re.sub(rf"\b{re.escape(symbol)}\b", name, dim.dim_param)  # not the s7 in s77
