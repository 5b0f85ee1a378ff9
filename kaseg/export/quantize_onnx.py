"""Static int8 quantization of ONNX files by ONNX Runtime."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from kaseg.export.packages import quiet, require
from kaseg.export.runtimes.onnx import open_session
from kaseg.progress import progress_bar

CalibrationMethod = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[CalibrationMethod, ...] = get_args(CalibrationMethod)

# Our choice. ONNX Runtime's own default, 99.999, cuts next to nothing.
_PERCENTILE = 99.99
# Left in float32 wherever they stand: they move values, or are rare and gain nothing.
_NEVER = {"Shape", "Gather", "Div", "Squeeze", "Unsqueeze", "Reshape", "Expand", "Range", "Cast", "Slice"}


def quantize_onnx(float_file: Path, file: Path, calibration: Sequence[np.ndarray], method: CalibrationMethod) -> None:
    """Write an int8 version: QDQ format, uint8 activations with the ranges that they have for the inputs `calibration`
    (run one at a time; `"percentile"` is 99.99), int8 weights per channel. What comes before the first convolution and
    after the last one (normalizing, resizing, argmax of a mask graph) stays in float32."""
    onnx = require("onnx", "to quantize ONNX models")
    quantization = require("onnxruntime.quantization", "to quantize ONNX models")
    methods = {
        "minmax": quantization.CalibrationMethod.MinMax,
        "percentile": quantization.CalibrationMethod.Percentile,
        "entropy": quantization.CalibrationMethod.Entropy,
    }
    graph = onnx.load(str(float_file)).graph
    name = graph.input[0].name
    types = sorted({node.op_type for node in graph.node} - _NEVER)
    prepared = file.with_name("prepared.onnx")
    with progress_bar(f"Calibrating by {method}", len(calibration), "images") as bar, quiet():
        preprocess = require("onnxruntime.quantization.shape_inference", "to quantize ONNX models").quant_pre_process
        # Folding and fusing is done already, and symbolic shapes make sympy wait.
        preprocess(str(float_file), str(prepared), skip_optimization=True, skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(file),
            _Reader(name, calibration, bar.update),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=types,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=[*outside_convolutions(graph), *computing_shapes(graph)],
            calibrate_method=methods[method],
            # The activations of one image at a time are kept, not those of all.
            extra_options={"CalibStridedMinMax": 1, "CalibPercentile": _PERCENTILE, "CalibTensorRangeSymmetric": False},
        )
    prepared.unlink()


def choose_method(
    float_file: Path, file: Path, calibration: Sequence[np.ndarray], methods: Sequence[CalibrationMethod] = METHODS
) -> tuple[CalibrationMethod, dict[str, float]]:
    """Quantize by every method and keep the one that changes the class of the smallest share of positions on the
    calibration images; labels and the validation set play no part. Returns the method and the agreement of each,
    0..1."""
    expected = _classes(float_file, calibration)
    agreement: dict[str, float] = {}
    best = methods[0]
    for method in methods:
        candidate = file.with_name(f"{method}.onnx")
        quantize_onnx(float_file, candidate, calibration, method)
        found = _classes(candidate, calibration)
        same = [float((a == b).mean()) for a, b in zip(expected, found, strict=True)]
        agreement[method] = float(np.mean(same))
        if method == best or agreement[method] > agreement[best]:
            best = method
            candidate.replace(file)
        else:
            candidate.unlink()
    return best, agreement


def outside_convolutions(graph: Any) -> list[str]:
    """Names of the nodes with no convolution before them or none after them."""
    after: set[str] = set()
    before: set[str] = set()
    for node in graph.node:
        if node.op_type == "Conv" or any(name in after for name in node.input):
            after.update(node.output)
    for node in reversed(graph.node):
        if node.op_type == "Conv" or any(name in before for name in node.output):
            before.update(node.input)
    return [
        node.name
        for node in graph.node
        if node.op_type != "Conv"
        and not (any(name in after for name in node.input) and any(name in before for name in node.output))
    ]


def computing_shapes(graph: Any) -> list[str]:
    """Names of the nodes that compute with the sizes of tensors and with nothing else, as TensorFlow's padding does, in
    part with floats: they must not be rounded."""
    sizes: set[str] = set()
    constants = {"", *(tensor.name for tensor in graph.initializer)}
    names = []
    for node in graph.node:
        if node.op_type == "Constant":
            constants.update(node.output)
            continue
        inputs = set(node.input) - constants
        if node.op_type == "Shape" or (inputs and inputs <= sizes):
            sizes.update(node.output)
            names.append(node.name)
    return names


def _classes(file: Path, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    session = open_session(file)
    name = session.get_inputs()[0].name
    outputs = (session.run(None, {name: batch})[0] for batch in inputs)
    return [output.argmax(1) if output.dtype == np.float32 else output for output in outputs]


class _Reader:
    """What ONNX Runtime takes for its `CalibrationDataReader`."""

    def __init__(self, input_name: str, inputs: Sequence[np.ndarray], progress: Callable[[], object]) -> None:
        self.input_name, self.inputs, self.progress = input_name, inputs, progress
        self.rest = iter(inputs)

    def __len__(self) -> int:
        return len(self.inputs)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.rest = iter(self.inputs[start_index:end_index])

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.rest, None)
        if batch is None:
            return None
        self.progress()
        return {self.input_name: batch}
