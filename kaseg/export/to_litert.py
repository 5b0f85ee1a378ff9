"""LiteRT files (`.tflite`) out of `torch.export` programs, and their int8 quantization."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from kaseg.export.packages import quiet, require

_SIGNATURE = "serving_default"
_expand, _zeros, _add = torch.ops.aten.expand.default, torch.ops.aten.zeros.default, torch.ops.aten.add.Tensor


def write_litert(program: torch.export.ExportedProgram, file: Path, input_name: str) -> None:
    """Write a program of a fixed input size as `.tflite`, float32; the signature's input is called `input_name`."""
    litert = require("litert_torch", "to write LiteRT models")
    os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")
    module = program.module()
    assert isinstance(module, fx.GraphModule)
    _broadcast_by_adding(module.graph)
    module.recompile()
    (example,), _ = program.example_inputs
    with quiet():
        litert.convert(_Named(module), sample_kwargs={input_name: example}).export(str(file))


def quantize_litert(float_file: Path, file: Path, calibration: Sequence[np.ndarray], input_name: str) -> None:
    """Write an int8 version: weights per channel, ranges of activations by their smallest and largest values. What
    comes before the first convolution and after the last one stays in float32, as do input and output."""
    purpose = "to quantize LiteRT models"
    recipe = require("ai_edge_quantizer.recipe", purpose).static_wi8_ai8()
    quantizer = require("ai_edge_quantizer.quantizer", purpose).Quantizer(str(float_file), recipe)
    for kind in ("INPUT", "OUTPUT"):
        quantizer.update_quantization_recipe(".*", kind, algorithm_key="no_quantize")
    for name in _outside_convolutions(float_file.read_bytes()):
        quantizer.update_quantization_recipe(rf"(^|;){re.escape(name)};", "*", algorithm_key="no_quantize")
    inputs = [{input_name: image} for image in calibration]  # the calibrator makes a list of them, too
    with quiet():
        ranges = quantizer.calibrate({_SIGNATURE: inputs}, num_threads=os.cpu_count() or 1)
        quantizer.quantize(ranges).export_model(str(file))


class _Named(nn.Module):
    """Takes the traced module's input by name, and is in eval mode, as the traced module is and does not say."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.training = False

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        return self.module(*inputs.values())


def _broadcast_by_adding(graph: fx.Graph) -> None:
    """Replace expansions by sums with zeros: litert-torch puts channels last and forgets those of an expansion's input,
    and the file cannot be run."""
    for node in graph.find_nodes(op="call_function", target=_expand):
        shape = list(node.meta["val"].shape)
        with graph.inserting_before(node):
            added = graph.call_function(_add, (graph.call_function(_zeros, (shape,)), node.args[0]))
        node.replace_all_uses_with(added)
        graph.erase_node(node)


def _outside_convolutions(model: bytes) -> Iterator[str]:
    """Names of what is computed before the first convolution and after the last one; operators lie in the order in
    which they are run."""
    schema: Any = require("ai_edge_litert.schema_py_generated", "to quantize LiteRT models")
    parsed = schema.ModelT.InitFromPackedBuf(model, 0)
    kinds = {schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D}
    (graph,) = parsed.subgraphs
    codes = [parsed.operatorCodes[operator.opcodeIndex].builtinCode for operator in graph.operators]
    places = [place for place, code in enumerate(codes) if code in kinds]
    for operator in (*graph.operators[: places[0]], *graph.operators[places[-1] + 1 :]):
        yield from (graph.tensors[output].name.decode() for output in operator.outputs)
