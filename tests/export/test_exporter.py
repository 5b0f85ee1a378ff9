import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from test_modeling_kaseg import MODERN, TRACED
from transformers.image_utils import SizeDict

import kaseg
from kaseg import KASegConfig, KASegImageProcessor, KASegModel, KASegOnnxModel
from kaseg.data import SCENES, load_segmentation_dataset
from kaseg.export import ExportOptions, Int8Data, MissingPackageError, ParityError, QuantizationLossError, export_model
from kaseg.export import formats as formats_file
from kaseg.export import graph as graph_file
from kaseg.export.calibration import CalibrationInputs
from kaseg.export.graph import resize_pixels
from kaseg.export.runtimes.openvino import compile_model
from kaseg.export.to_openvino import write_openvino
from kaseg.writing import whole_folder

SIZES = ((64, 96), (65, 97))


ALIGNED = {"backbone": "mobilenetv2_035", "output_stride": 16, "tf_padding": True, "pad_to_stride": True}
# Of these, traces with free sizes take many minutes (docs/deploy.md).
WINDOWED = [architecture for architecture in TRACED if architecture["backbone"].startswith("swin")]


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (1, 3, 24, 32)),
        ({"size": (40, 60)}, (1, 3, 40, 60)),
        ({"output": "mask"}, (1, 48, 64, 3)),
        ({"format": "transformers-js"}, (1, 3, 48, 64)),
    ],
)
def test_int8_is_calibrated_on_what_the_graph_will_be_given(options: dict, shape: tuple[int, ...]) -> None:
    scenes = load_segmentation_dataset("scenes", split="train", num_scenes=2, height=48, width=64)
    processor = KASegImageProcessor(do_resize=True, size={"shortest_edge": 24})
    inputs = CalibrationInputs(Int8Data(scenes, scenes), processor, ExportOptions(**options))
    assert inputs[0].shape == shape


@pytest.mark.parametrize("size", [{"shortest_edge": 37}, {"height": 31, "width": 89}])
@pytest.mark.parametrize("of", [(53, 61), (97, 67), (37, 37)])
def test_graphs_resize_as_pillow_does(size: dict[str, int], of: tuple[int, int]) -> None:
    """But for sums near a half, which are rounded either way."""
    pixels = np.random.default_rng(0).integers(0, 256, (*of, 3), dtype=np.uint8)
    found = resize_pixels(torch.from_numpy(pixels).permute(2, 0, 1)[None], SizeDict(**size))
    prepared = KASegImageProcessor(do_resize=True, size=size)(pixels, return_tensors="pt")["pixel_values"]
    assert found.shape == prepared.shape
    height, width = prepared.shape[2:]
    # In two calls: Pillow 13 begins with the columns where that is less work.
    rows = Image.fromarray(pixels).resize((width, of[0]), Image.Resampling.BILINEAR)
    expected = rows.resize((width, height), Image.Resampling.BILINEAR)
    difference = np.abs(found[0].permute(1, 2, 0).numpy() - np.asarray(expected, dtype=np.float32))
    assert difference.max() <= 1 and difference.mean() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    [ALIGNED, *(a for a in TRACED if a not in WINDOWED)],
    ids=lambda a: "-".join(str(v) for v in a.values()),
)
def test_every_architecture_at_any_size_and_batch(architecture: dict, tmp_path: Path) -> None:
    model = KASegModel(KASegConfig(num_labels=5, head_channels=32, **architecture)).eval()
    facts = export_model(model, KASegImageProcessor(), tmp_path / "export", parity_sizes=SIZES)
    assert [(p["batch"], *p["size"]) for p in facts["parity"]] == [(2, 64, 96), (1, 65, 97)]
    exported = KASegOnnxModel.from_pretrained(tmp_path / "export", threads=1)
    engines = [lambda image: exported(image).logits]
    if not architecture["backbone"].startswith("test_vit"):
        # What kaseg export --format openvino does, without tracing the model again.
        write_openvino(tmp_path / "export" / "model.onnx", tmp_path / "model.xml", compress_to_fp16=False)
        compiled = compile_model(tmp_path / "model.xml", "float32", threads=1)
        engines.append(lambda image: torch.from_numpy(compiled([image.numpy()])[0].copy()))
    for shape in ((3, 3, 33, 47), (1, 3, 5, 7)):
        image = torch.randn(shape)
        with torch.no_grad():
            expected = model(image).logits
        near = {"rtol": 1e-3, "atol": 1e-4 * expected.abs().max().item()}
        for engine in engines:
            torch.testing.assert_close(engine(image), expected, **near)


@pytest.mark.parametrize("architecture", WINDOWED, ids=lambda a: a["head"])
def test_windowed_transformers_at_a_fixed_size(architecture: dict, tmp_path: Path) -> None:
    model = KASegModel(KASegConfig(num_labels=5, head_channels=32, **architecture)).eval()
    export_model(model, KASegImageProcessor(), tmp_path / "export", ExportOptions(size=(65, 97)))
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        expected = model(image).logits
    exported = KASegOnnxModel.from_pretrained(tmp_path / "export", threads=1)
    torch.testing.assert_close(exported(image).logits, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture", [a for a in MODERN if "medium" not in a["backbone"]], ids=lambda a: a["backbone"]
)
def test_modern_encoders_in_int8(architecture: dict, tmp_path: Path) -> None:
    """Traced, written, quantized and compared; random weights, so that the mean IoU says nothing."""
    labels = {"id2label": SCENES.id2label, "label2id": SCENES.label2id}
    model = KASegModel(KASegConfig(head_channels=32, **labels, **architecture)).eval()
    scenes = load_segmentation_dataset("scenes", split="validation", num_scenes=2, height=64, width=96)
    int8 = Int8Data(scenes, scenes, samples=2, methods=("minmax",), max_loss=100)
    facts = export_model(
        model, KASegImageProcessor(), tmp_path / "export", ExportOptions("onnx", "int8", size=(64, 96)), int8
    )
    assert facts["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert all(0.001 < row["relative_error"] < 0.5 for row in facts["parity"])


def test_a_vision_transformer_of_any_size_is_refused_for_openvino_and_one_of_a_fixed_size_is_not(tmp_path) -> None:
    """OpenVINO has no antialiasing for the bicubic resizing of position embeddings."""
    model = KASegModel(KASegConfig(num_labels=5, head_channels=32, backbone="test_vit", output_stride=16)).eval()
    with pytest.raises(ParityError):
        export_model(model, KASegImageProcessor(), tmp_path / "any", ExportOptions("openvino"), parity_sizes=SIZES)
    assert not (tmp_path / "any").exists()
    export_model(model, KASegImageProcessor(), tmp_path / "fixed", ExportOptions("openvino", size=(64, 96)))


def test_what_a_folder_holds(exported: Callable[..., Path]) -> None:
    folder = exported()
    names = {"README.md", "config.json", "export.json", "model.onnx", "preprocessor_config.json"}
    assert {path.name for path in folder.iterdir()} == names
    record = json.loads((folder / "export.json").read_text())
    assert (record["format"], record["dtype"], record["output"], record["opset"]) == ("onnx", "float32", "logits", 20)
    assert len(record["parity"]) == 2 and {"kaseg", "torch", "onnx", "onnxruntime"} <= record["versions"].keys()
    graph = onnx.load(folder / "model.onnx").graph
    shape = [dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", 3, "height", "width"]
    assert not any(node.op_type == "BatchNormalization" for node in graph.node)


@pytest.mark.parametrize("format", ["onnx", "openvino", "torch-export"])
def test_no_file_says_where_python_lies_on_the_disk(exported: Callable[..., Path], format: str) -> None:
    places = [str(Path(module.__file__).parent).encode() for module in (kaseg, torch)]
    for file in exported(format=format).iterdir():
        content = file.read_bytes()
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as packed:
                content = b"".join(map(packed.read, packed.namelist()))
        assert not [place for place in places if place in content], file.name


def test_an_onnx_file_holds_no_notes_of_the_exporter(exported: Callable[..., Path]) -> None:
    assert not any(node.metadata_props for node in onnx.load(exported() / "model.onnx").graph.node)


def test_a_mask_graph_that_normalizes_otherwise_is_not_kept(model, tmp_path: Path, monkeypatch) -> None:
    right = graph_file.normalize
    monkeypatch.setattr(graph_file, "normalize", lambda images, scale, shift: right(images, 3 * scale, 3 * shift))
    with pytest.raises(ParityError, match="of the pixels have the model's class"):
        export_model(model, KASegImageProcessor(), tmp_path / "export", ExportOptions(output="mask"))
    assert not (tmp_path / "export").exists()


def test_images_that_are_not_rgb(processor, tmp_path: Path) -> None:
    config = KASegConfig(backbone="test_resnet.r160_in1k", output_stride=32, num_channels=4, head_channels=32)
    model = KASegModel(config).eval()
    facts = export_model(model, processor, tmp_path / "export", parity_sizes=SIZES)
    assert [row["batch"] for row in facts["parity"]] == [2, 1]
    images = torch.randn(1, 4, 40, 48)
    with torch.no_grad():
        expected = model(images).logits
    found = KASegOnnxModel.from_pretrained(tmp_path / "export")(images).logits
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_fixed_size(exported: Callable[..., Path], model: KASegModel) -> None:
    folder = exported(size=(48, 64))
    parity = json.loads((folder / "export.json").read_text())["parity"]
    # On two images: a graph that had one's values for constants would pass on that one.
    assert len({row["max_error"] for row in parity}) == 2 and all(row["size"] == [48, 64] for row in parity)
    runtime = KASegOnnxModel.from_pretrained(folder)
    image = torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        torch.testing.assert_close(runtime(image).logits, model(image).logits, rtol=1e-3, atol=1e-4)
    for shape in ((1, 3, 64, 64), (2, 3, 48, 64)):
        with pytest.raises(ValueError, match=r"takes one image of \(height, width\) \(48, 64\) at a time.*--size"):
            runtime(torch.zeros(shape))


def test_a_file_that_computes_something_else_is_not_kept(model, processor, tmp_path, monkeypatch):
    write = formats_file.write_onnx

    def write_wrongly(program, file: Path, options) -> None:
        write(program, file, options)
        proto = onnx.load(file)
        weight = next(tensor for tensor in proto.graph.initializer if len(tensor.dims) == 4)
        weight.CopyFrom(numpy_helper.from_array(1.1 * numpy_helper.to_array(weight), weight.name))
        onnx.save(proto, file)

    monkeypatch.setattr(formats_file, "write_onnx", write_wrongly)
    with pytest.raises(ParityError, match="does not compute what the model computes"):
        export_model(model, processor, tmp_path / "export", parity_sizes=SIZES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "link", "here"])
def test_an_empty_folder_that_is_there_is_filled_and_stays(tmp_path: Path, monkeypatch, kind: str) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    number = folder.stat().st_ino
    target = folder
    if kind == "link":
        target = tmp_path / "link"
        target.symlink_to(folder)
    if kind == "here":
        monkeypatch.chdir(folder)
        target = Path()
    with pytest.raises(KeyError), whole_folder(target, last="export.json") as inside:
        (inside / "half").write_text("done")
        raise KeyError
    assert list(folder.iterdir()) == []
    with whole_folder(target, last="export.json") as inside:
        (inside / "export.json").write_text("{}")
        (inside / "more").mkdir()
    assert sorted(path.name for path in folder.iterdir()) == ["export.json", "more"]
    assert folder.stat().st_ino == number and list(target.iterdir())


class TestRefusals:
    def test_a_folder_with_something_in_it(self, model, processor, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(FileExistsError, match="there already and not empty"):
            export_model(model, processor, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

    def test_int8_without_data(self, model, processor, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="int8 needs a dataset"):
            export_model(model, processor, tmp_path / "export", ExportOptions(dtype="int8"))

    @pytest.mark.parametrize("options", [{"output": "mask"}, {"dtype": "int8"}])
    def test_what_is_for_rgb_pictures_alone(self, processor, tmp_path: Path, options: dict) -> None:
        model = KASegModel(KASegConfig(backbone="mobilenetv2_035", num_channels=4))
        data = Int8Data([], []) if "dtype" in options else None
        with pytest.raises(ValueError, match="takes images of 4 channels"):
            export_model(model, processor, tmp_path / "export", ExportOptions(**options), data)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "settings, format, message",
        [
            ({"do_pad": True}, "onnx", "do_pad=True, which is not part of an exported graph"),
            ({"do_resize": True, "size": {"height": 32, "width": 32}, "resample": 3}, "onnx", "resample=.*bilinearly"),
            ({"do_resize": True, "size": {"shortest_edge": 32, "longest_edge": 40}}, "onnx", "limits the longest edge"),
            ({"do_resize": True, "size": {"height": 32, "width": 32}}, "openvino", "only onnx and torch-export resize"),
        ],
    )
    def test_what_a_mask_graph_cannot_do(self, model, tmp_path: Path, settings, format: str, message: str) -> None:
        processor = KASegImageProcessor(**settings)
        with pytest.raises(ValueError, match=message):
            export_model(model, processor, tmp_path / "export", ExportOptions(format, output="mask"))
        assert list(tmp_path.iterdir()) == []

    def test_transformers_js_is_not_told_to_fix_a_size_which_it_cannot(self, model, tmp_path: Path) -> None:
        processor = KASegImageProcessor(do_resize=True, size={"shortest_edge": 32, "longest_edge": 40})
        with pytest.raises(ValueError, match="of any size cannot do: save it without longest_edge"):
            export_model(model, processor, tmp_path / "export", ExportOptions("transformers-js"))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "format, package", [("onnx", "onnx"), ("openvino", "openvino"), ("executorch", "executorch")]
    )
    def test_a_missing_package(self, model, processor, tmp_path: Path, monkeypatch, format: str, package: str) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        options = ExportOptions(format=format, size=(64, 64) if format == "executorch" else None)
        with pytest.raises(MissingPackageError, match=rf"{package} is needed for exports to {format}.*pip install"):
            export_model(model, processor, tmp_path / "export", options)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
class TestInt8:
    @pytest.fixture(scope="class")
    def data(self) -> dict:
        scenes = load_segmentation_dataset("scenes", split="validation", num_scenes=3)
        return {"calibration": scenes, "validation": scenes, "samples": 2, "methods": ("minmax",)}

    def test_onnx(self, model, processor, data: dict, tmp_path: Path) -> None:
        options, int8 = ExportOptions(dtype="int8", output="mask"), Int8Data(**data, max_loss=100)
        facts = export_model(model, processor, tmp_path / "export", options, int8, parity_sizes=SIZES)
        figures = facts["quantization"]
        assert figures["calibration_method"] == "minmax" and figures["calibration_samples"] == 2
        assert 0 < figures["mean_iou_before"] < 1 and 0 < figures["mean_iou_after"] < 1
        graph = onnx.load(tmp_path / "export" / "model.onnx").graph
        integers = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
        weights = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in integers]
        assert len(weights) >= sum(node.op_type == "Conv" for node in graph.node)
        assert not {"float32.onnx", "prepared.onnx"} & {path.name for path in (tmp_path / "export").iterdir()}

    def test_too_large_a_loss_is_refused(self, model, processor, data: dict, tmp_path: Path) -> None:
        options, int8 = ExportOptions(dtype="int8"), Int8Data(**data, max_loss=-100)
        with pytest.raises(QuantizationLossError, match=r"int8 costs .* points of mean IoU .* allowed are -100"):
            export_model(model, processor, tmp_path / "export", options, int8, parity_sizes=SIZES)
        assert list(tmp_path.iterdir()) == []
