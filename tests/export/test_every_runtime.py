"""What every runtime gives: masks of the graph, at sizes that no stride divides, and each number type."""

import base64
import functools
import importlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from javascript_tools import needs_node, node, varied_model

from kaseg import KASegImageProcessor, KASegModel
from kaseg.data import SCENES, load_segmentation_dataset
from kaseg.data.scenes import render_scene
from kaseg.evaluation import MeanIoU
from kaseg.export import ExportOptions, Int8Data, calibration, export_model
from kaseg.export.formats import load_export, needs
from kaseg.export.record import read_record
from kaseg.export.runtimes.onnx import ONNX_NAME
from kaseg.masks import resize_logits

SIZES = ((259, 321), (360, 480))
FIXED = ("executorch", "litert")
Run = Callable[[np.ndarray], np.ndarray]


@functools.cache
def student(fixed: bool) -> KASegModel:
    """For fixed sizes one that pads to its stride as those for CamVid do; to trace that with free sizes takes long."""
    if fixed:
        return varied_model("test_efficientnet.r160_in1k", output_stride=16, tf_padding=True, pad_to_stride=True)
    return varied_model(output_stride=16)


@pytest.fixture(scope="module")
def run_of(
    processor: KASegImageProcessor, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, ExportOptions], Run]:
    """An export in a runtime as a function of arrays; each is exported once."""
    folders: dict[ExportOptions, Path] = {}

    def run(runtime: str, options: ExportOptions) -> Run:
        for module in needs(options):
            pytest.importorskip(module, reason=f"{module} is not installed", exc_type=ImportError)
        if runtime == "node":
            needs_node()
        model = student(options.size is not None)
        if options not in folders:
            folder = folders[options] = tmp_path_factory.mktemp("export") / "export"
            export_model(model, processor, folder, options, parity_sizes=((64, 96), (65, 97)))
        folder = folders[options]
        if runtime == "node":
            return lambda inputs: on_node(folder / ONNX_NAME, inputs)
        (loaded,) = load_export(folder, options, model.config, read_record(folder / "export.json")).values()
        return loaded.run

    return run


def on_node(file: Path, inputs: np.ndarray) -> np.ndarray:
    request = {"type": inputs.dtype.name, "dims": inputs.shape, "data": base64.b64encode(inputs.tobytes()).decode()}
    (file.parent / "request.json").write_text(json.dumps(request))
    output = node("run.mjs", str(file), str(file.parent / "request.json"))
    return np.frombuffer(base64.b64decode(output["data"]), output["type"]).reshape(output["dims"])


def mean_iou(masks: np.ndarray, labels: np.ndarray) -> float:
    metric = MeanIoU(num_labels=SCENES.num_labels)
    metric.add_batch(predictions=masks, references=labels)
    return metric.compute()["mean_iou"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("runtime", ["onnx", "openvino", "torch-export", "executorch", "litert", "node"])
def test_masks_of_the_graph(runtime: str, size: tuple[int, int], processor: KASegImageProcessor, run_of) -> None:
    format, fixed = "onnx" if runtime == "node" else runtime, size if runtime in FIXED else None
    logits_of, masks_of = (run_of(runtime, ExportOptions(format, output=o, size=fixed)) for o in ("logits", "mask"))
    scenes = [render_scene(0, index, *size) for index in range(3)]
    images, labels = (np.stack([scene[part] for scene in scenes]) for part in (0, 1))
    pixel_values = processor(list(images), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        outputs = student(fixed is not None)(pixel_values)
    own = torch.stack(processor.post_process_semantic_segmentation(outputs, [size] * len(scenes))).numpy()
    batches = np.split(images, len(images)) if fixed else [images]
    masks = np.concatenate([masks_of(batch) for batch in batches])
    batches = np.split(pixel_values.numpy(), len(images)) if fixed else [pixel_values.numpy()]
    logits = torch.from_numpy(np.concatenate([logits_of(batch) for batch in batches]))
    assert masks.dtype == np.uint8 and masks.shape == (3, *size) and len(np.unique(masks)) > 2
    assert (masks == resize_logits(logits, size).argmax(1).numpy()).mean() > 0.9999
    assert (masks == own).mean() > 0.9999
    assert mean_iou(masks, labels) == pytest.approx(mean_iou(own, labels), abs=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "format, size, resized_to",
    [
        ("onnx", None, {"shortest_edge": 80}),
        ("onnx", None, {"height": 64, "width": 80}),
        ("torch-export", None, {"shortest_edge": 80}),
        ("onnx", (97, 161), {"shortest_edge": 80, "longest_edge": 112}),
    ],
)
def test_masks_of_a_graph_that_resizes(format, size, resized_to, tmp_path):
    """The export is compared with Pillow, image processor and model; that these resize is looked at here."""
    options = ExportOptions(format, output="mask", size=size)  # type: ignore[arg-type]
    for module in needs(options):
        pytest.importorskip(module, reason=f"{module} is not installed", exc_type=ImportError)
    processor = KASegImageProcessor(do_resize=True, size=resized_to)
    model = student(True) if size else varied_model()
    facts = export_model(model, processor, tmp_path / "export", options, parity_sizes=((97, 161), (162, 98)))
    assert min(row["mask_agreement"] for row in facts["parity"]) > 0.999
    (loaded,) = load_export(tmp_path / "export", options, model.config, facts).values()
    image = render_scene(0, 0, 97, 161)[0]
    with torch.inference_mode():
        prepared = KASegImageProcessor()(image, return_tensors="pt")
        as_it_is = KASegImageProcessor().post_process_semantic_segmentation(model(**prepared), [(97, 161)])[0]
    assert (loaded.run(image[None])[0] != as_it_is.numpy()).mean() > 0.01
    if format == "onnx":  # int8, which is scored so, is not for torch.export
        scenes = load_segmentation_dataset("scenes", split="validation", num_scenes=2, height=97, width=161)
        scores = [calibration.mean_iou(scored, scenes, processor, options) for scored in (loaded, model)]
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


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("output", ["logits", "mask"])
@pytest.mark.parametrize(
    "format, dtype",
    [("openvino", "bf16"), ("torch-export", "bf16"), ("onnx", "int8"), ("openvino", "int8"), ("litert", "int8")],
)
def test_other_number_types(format, dtype, output, processor, tmp_path):
    image_dtype = "uint8" if format == "litert" else "float32"  # of masks; the test above has uint8
    options = ExportOptions(format, dtype, output, image_dtype, size=(97, 129))
    for module in needs(options):
        pytest.importorskip(module, reason=f"{module} is not installed", exc_type=ImportError)
    scenes = load_segmentation_dataset("scenes", split="validation", num_scenes=4, height=97, width=129)
    int8 = Int8Data(scenes, scenes, samples=4, methods=("minmax",), max_loss=10) if dtype == "int8" else None
    facts = export_model(student(True), processor, tmp_path / "export", options, int8)
    if output == "logits":
        # It is what it says: float32 is more exact than 16 bits can be, and those than 8.
        least, most = {"bf16": (1e-5, 0.05), "int8": (0.005, 0.5)}[dtype]
        assert all(least < row["relative_error"] < most for row in facts["parity"])
    if int8 is not None:
        figures = facts["quantization"]
        print(f"{format}, {output}: {figures['loss_in_points']:.2f} points of mean IoU lost")
        assert figures["calibration_samples"] == 4 and 0 < figures["mean_iou_after"] < 1
    assert not [file for file in (tmp_path / "export").iterdir() if file.name.startswith(("float32", "prepared"))]
    if format == "litert":
        before, after = types_around_convolutions(tmp_path / "export" / "model.tflite")
        assert "INT8" not in before and "FLOAT32" in after and "INT8" not in after
