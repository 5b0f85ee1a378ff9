"""What every runtime gives: masks of the graph, at sizes that no stride divides, and each number type."""

import base64
import importlib
import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from javascript_tools import needs_node, node
from PIL import Image
from toy import mask_of

from kaseg import KASegImageProcessor, KASegModel
from kaseg.data import SCENES, load_segmentation_dataset
from kaseg.data.scenes import render_scene
from kaseg.evaluation import MeanIoU
from kaseg.export import ExportOptions, Int8Data, calibration
from kaseg.export.formats import load_export, needs
from kaseg.export.record import read_record
from kaseg.export.runtimes.base import ExportedModel
from kaseg.export.runtimes.onnx import ONNX_NAME
from kaseg.masks import resize_logits

SIZES = ((259, 321), (360, 480))
FIXED = ("executorch", "litert")


def require(options: ExportOptions) -> None:
    """Skips the test where a package that the export needs is missing."""
    for module in needs(options):
        pytest.importorskip(module, reason=f"{module} is not installed", exc_type=ImportError)


@cache
def load(folder: Path, options: ExportOptions, model: KASegModel) -> ExportedModel:
    (loaded,) = load_export(folder, options, model.config, read_record(folder / "export.json")).values()
    return loaded


def on_node(file: Path, inputs: np.ndarray) -> np.ndarray:
    needs_node()
    request = {"type": inputs.dtype.name, "dims": inputs.shape, "data": base64.b64encode(inputs.tobytes()).decode()}
    (file.parent / "request.json").write_text(json.dumps(request))
    output = node("run.mjs", str(file), str(file.parent / "request.json"))
    (file.parent / "request.json").unlink()
    return np.frombuffer(base64.b64decode(output["data"]), output["type"]).reshape(output["dims"])


def mean_iou(masks: np.ndarray, labels: np.ndarray) -> float:
    metric = MeanIoU(num_labels=SCENES.num_labels)
    metric.add_batch(predictions=masks, references=labels)
    return metric.compute()["mean_iou"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("runtime", ["onnx", "openvino", "torch-export", "executorch", "litert", "node"])
def test_masks_of_the_graph(runtime: str, size, model, padded_model, processor, exported) -> None:
    format, fixed = "onnx" if runtime == "node" else runtime, size if runtime in FIXED else None
    network = padded_model if fixed else model

    def run_of(output: str) -> Callable[[np.ndarray], np.ndarray]:
        options = ExportOptions(format, output=output, size=fixed)
        require(options)
        folder = exported(network, format=format, output=output, size=fixed)
        return partial(on_node, folder / ONNX_NAME) if runtime == "node" else load(folder, options, network).run

    logits_of, masks_of = run_of("logits"), run_of("mask")
    scenes = [render_scene(0, index, *size) for index in range(2)]
    images, labels = (np.stack([scene[part] for scene in scenes]) for part in (0, 1))
    pixel_values = processor(list(images), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        outputs = network(pixel_values)
    own = torch.stack(processor.post_process_semantic_segmentation(outputs, [size] * len(scenes))).numpy()
    parts = len(scenes) if fixed else 1
    masks = np.concatenate([masks_of(batch) for batch in np.split(images, parts)])
    logits = np.concatenate([logits_of(batch) for batch in np.split(pixel_values.numpy(), parts)])
    assert masks.dtype == np.uint8 and masks.shape == (2, *size) and len(np.unique(masks)) > 2
    assert (masks == resize_logits(torch.from_numpy(logits), size).argmax(1).numpy()).mean() > 0.9999
    assert (masks == own).mean() > 0.9999
    assert mean_iou(masks, labels) == pytest.approx(mean_iou(own, labels), abs=1e-3)


SHORT = KASegImageProcessor(do_resize=True, size={"shortest_edge": 80})
STRETCHED = KASegImageProcessor(do_resize=True, size={"height": 64, "width": 80})
LIMITED = KASegImageProcessor(do_resize=True, size={"shortest_edge": 80, "longest_edge": 112})


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "format, size, resizing",
    [
        ("onnx", None, SHORT),
        ("torch-export", None, SHORT),
        ("onnx", None, STRETCHED),
        ("onnx", (97, 161), LIMITED),
    ],
    ids=["onnx", "torch-export", "onnx-stretched", "onnx-limited"],
)
def test_masks_of_a_graph_that_resizes(format, size, resizing, model, padded_model, exported):
    """The export is compared with Pillow, image processor and model; that these resize is looked at here."""
    options, network = ExportOptions(format, output="mask", size=size), padded_model if size else model
    require(options)
    folder = exported(network, resizing, sizes=((97, 161), (162, 98)), format=format, output="mask", size=size)
    assert min(row["mask_agreement"] for row in read_record(folder / "export.json")["parity"]) > 0.999
    loaded, image = load(folder, options, network), render_scene(0, 0, 97, 161)[0]
    assert (loaded.run(image[None])[0] != mask_of(network, KASegImageProcessor(), Image.fromarray(image))).mean() > 0.01
    if format == "onnx":  # int8, which is scored so, is not for torch.export
        scenes = load_segmentation_dataset("scenes", split="validation", num_scenes=2, height=97, width=161)
        scores = [calibration.mean_iou(scored, scenes, resizing, options) for scored in (loaded, network)]
        assert scores[0] == pytest.approx(scores[1], abs=0.01) and scores[1] > 0


def types_around_convolutions(file: Path) -> tuple[set[str], set[str]]:
    """Types of what a LiteRT file computes before its first convolution, but for the step into int8, and after the
    last one."""
    schema = importlib.import_module("ai_edge_litert.schema_py_generated")
    operator, types = schema.BuiltinOperator, {value: name for name, value in vars(schema.TensorType).items()}
    parsed = schema.ModelT.InitFromPackedBuf(file.read_bytes(), 0)
    (graph,) = parsed.subgraphs
    kinds = [parsed.operatorCodes[step.opcodeIndex].builtinCode for step in graph.operators]
    found = [{types[graph.tensors[output].type] for output in step.outputs} for step in graph.operators]
    places = [place for place, kind in enumerate(kinds) if kind in (operator.CONV_2D, operator.DEPTHWISE_CONV_2D)]
    before = (found[place] for place in range(places[0]) if kinds[place] != operator.QUANTIZE)
    return set().union(*before), set().union(*found[places[-1] + 1 :])


def has_int8_weights(file: Path) -> bool:
    graph = onnx.load(file).graph
    integers = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    weights = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in integers]
    return len(weights) >= sum(node.op_type == "Conv" for node in graph.node)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("output", ["logits", "mask"])
@pytest.mark.parametrize(
    "format, dtype",
    [("openvino", "bf16"), ("torch-export", "bf16"), ("onnx", "int8"), ("openvino", "int8"), ("litert", "int8")],
)
def test_other_number_types(format, dtype, output, model, padded_model, exported):
    # int8 in ONNX for images of any size too; of masks, the tests above have uint8.
    network, size = (model, None) if (format, output) == ("onnx", "mask") else (padded_model, (97, 129))
    image_dtype = "float32" if size and format != "litert" else "uint8"
    require(ExportOptions(format, dtype, output, image_dtype, size))
    scenes = load_segmentation_dataset("scenes", split="validation", num_scenes=4, height=97, width=129)
    int8 = Int8Data(scenes, scenes, samples=4, methods=("minmax",), max_loss=10) if dtype == "int8" else None
    how = {"format": format, "dtype": dtype, "output": output, "image_dtype": image_dtype, "size": size}
    folder = exported(network, int8=int8, **how)
    facts = read_record(folder / "export.json")
    if output == "logits":
        # It is what it says: float32 is more exact than 16 bits can be, and those than 8.
        least, most = {"bf16": (1e-5, 0.05), "int8": (0.005, 0.5)}[dtype]
        assert all(least < row["relative_error"] < most for row in facts["parity"])
    if int8 is not None:
        figures = facts["quantization"]
        assert figures["calibration_method"] == ("nncf mixed" if format == "openvino" else "minmax")
        assert figures["calibration_samples"] == 4
        assert 0 < figures["mean_iou_before"] < 1 and 0 < figures["mean_iou_after"] < 1
    assert not [file for file in folder.iterdir() if file.name.startswith(("float32", "prepared"))]
    if format == "litert":
        before, after = types_around_convolutions(folder / "model.tflite")
        assert "INT8" not in before and "FLOAT32" in after and "INT8" not in after
    assert (format, dtype) != ("onnx", "int8") or has_int8_weights(folder / ONNX_NAME)
