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
from test_modeling_kaseg import MODERN, SWIN
from timm.layers import Conv2dSame
from transformers.image_utils import SizeDict

import kaseg
from kaseg import KASegConfig, KASegImageProcessor, KASegModel, KASegOnnxModel
from kaseg.data import SCENES, load_segmentation_dataset
from kaseg.export import ExportOptions, Int8Data, MissingPackageError, ParityError, QuantizationLossError, export_model
from kaseg.export import formats as formats_file
from kaseg.export import graph as graph_file
from kaseg.export.calibration import CalibrationInputs
from kaseg.export.graph import resize_pixels
from kaseg.export.record import read_record
from kaseg.export.runtimes.openvino import compile_model
from kaseg.export.to_openvino import write_openvino
from kaseg.writing import whole_folder

# The student, then each other head, each way to treat an encoder and each way to pad. Every layer makes tracing longer,
# so these have few.
ARCHITECTURES = [
    {"backbone": "mobilenetv2_035", "output_stride": 16, "tf_padding": True, "pad_to_stride": True},
    {
        "backbone": "test_convnext",
        "output_stride": 16,
        "head": "deeplabv3plus",
        "backbone_kwargs": {"depths": (1, 1, 1, 1)},
    },
    {"backbone": "test_resnet", "output_stride": 4, "head": "lraspp", "num_channels": 4},  # cannot dilate beyond 8
    {"backbone": "test_efficientnet", "output_stride": 32, "head": "mlp", "tf_padding": True},
    {"backbone": "test_resnet", "output_stride": 8, "head": "fpn", "pad_to_stride": True},
    {"backbone": "test_mambaout", "output_stride": 16, "backbone_kwargs": {"depths": (1, 1, 1, 1)}},
    {"backbone": "test_vit", "output_stride": 8, "backbone_kwargs": {"depth": 3}},
]


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
@pytest.mark.timeout(900)
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: f"{a['backbone']}-{a.get('head')}")
def test_every_architecture_at_any_size_and_batch(architecture: dict, exported, tmp_path: Path) -> None:
    model = KASegModel(KASegConfig(num_labels=5, head_channels=32, **architecture)).eval()
    folder = exported(model)
    parity = read_record(folder / "export.json")["parity"]
    assert [(row["batch"], *row["size"]) for row in parity] == [(2, 64, 96), (1, 65, 97)]
    onnx_model = KASegOnnxModel.from_pretrained(folder, threads=1)
    engines = [lambda image: onnx_model(image).logits]
    if architecture["backbone"] == "test_vit":
        with pytest.raises(ParityError):  # OpenVINO resizes position embeddings without antialiasing
            exported(model, format="openvino")
        exported(model, format="openvino", size=(64, 96))
    else:  # what an export to OpenVINO does with the ONNX file
        write_openvino(folder / "model.onnx", tmp_path / "model.xml", compress_to_fp16=False)
        compiled = compile_model(tmp_path / "model.xml", "float32", threads=1)
        engines.append(lambda image: torch.from_numpy(compiled([image.numpy()])[0].copy()))
    for batch, *size in ((3, 33, 47), (1, 5, 7)):
        image = torch.randn(batch, model.config.num_channels, *size)
        with torch.no_grad():
            expected = model(image).logits
        for engine in engines:
            near = {"rtol": 1e-3, "atol": 1e-4 * expected.abs().max().item()}
            torch.testing.assert_close(engine(image), expected, **near)
    if architecture.get("tf_padding"):
        types = {node.op_type for node in onnx.load(folder / "model.onnx").graph.node}
        assert "Pad" in types and "Ceil" not in types
        assert any(type(module) is Conv2dSame for module in model.modules())  # the model itself stays as it is


def test_windowed_transformers_at_a_fixed_size(exported: Callable[..., Path]) -> None:
    """With free sizes, traces of these take many minutes (docs/deploy.md)."""
    architecture = {"backbone": "swin_tiny_patch4_window7_224", "backbone_kwargs": SWIN, "output_stride": 8}
    folder = exported(KASegModel(KASegConfig(num_labels=5, head="lraspp", **architecture)).eval(), size=(65, 97))
    assert all(row["relative_error"] < 1e-4 for row in read_record(folder / "export.json")["parity"])


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


def test_what_a_folder_holds(exported: Callable[..., Path]) -> None:
    folder = exported()
    names = {"README.md", "config.json", "export.json", "model.onnx", "preprocessor_config.json"}
    assert {path.name for path in folder.iterdir()} == names
    record = read_record(folder / "export.json")
    assert (record["format"], record["dtype"], record["output"], record["opset"]) == ("onnx", "float32", "logits", 20)
    assert len(record["parity"]) == 2 and {"kaseg", "torch", "onnx", "onnxruntime"} <= record["versions"].keys()
    graph = onnx.load(folder / "model.onnx").graph
    shape = [dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", 3, "height", "width"]
    # BatchNorm is folded, and the exporter's notes on where each node comes from are gone.
    assert not any(node.op_type == "BatchNormalization" or node.metadata_props for node in graph.node)


@pytest.mark.parametrize("format", ["onnx", "openvino", "torch-export"])
def test_no_file_says_where_python_lies_on_the_disk(exported: Callable[..., Path], format: str) -> None:
    places = [str(Path(module.__file__).parent).encode() for module in (kaseg, torch)]
    for file in exported(format=format).iterdir():
        content = file.read_bytes()
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as packed:
                content = b"".join(map(packed.read, packed.namelist()))
        assert not [place for place in places if place in content], file.name


def test_a_mask_graph_that_normalizes_otherwise_is_not_kept(model, tmp_path: Path, monkeypatch) -> None:
    right = graph_file.normalize
    monkeypatch.setattr(graph_file, "normalize", lambda images, scale, shift: right(images, 3 * scale, 3 * shift))
    with pytest.raises(ParityError, match="of the pixels have the model's class"):
        options = ExportOptions(output="mask", size=(64, 96))
        export_model(model, KASegImageProcessor(), tmp_path / "export", options)
    assert not (tmp_path / "export").exists()


def test_a_fixed_size(exported: Callable[..., Path], model: KASegModel) -> None:
    folder = exported(size=(48, 64))
    parity = read_record(folder / "export.json")["parity"]
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
        export_model(model, processor, tmp_path / "export", ExportOptions(size=(64, 96)))
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


def test_a_folder_with_something_in_it_is_refused(model, processor, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="there already and not empty"):
        export_model(model, processor, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


MASK, SQUARE = {"output": "mask"}, {"do_resize": True, "size": {"height": 32, "width": 32}}
LIMITED = {"do_resize": True, "size": {"shortest_edge": 32, "longest_edge": 40}}


@pytest.mark.parametrize(
    "channels, settings, options, message",
    [
        (3, {}, {"dtype": "int8"}, "int8 needs a dataset"),
        (4, {}, {"dtype": "int8"}, "takes images of 4 channels"),
        (4, {}, MASK, "takes images of 4 channels"),
        (3, {"do_pad": True}, MASK, "do_pad=True, which is not part of an exported graph"),
        (3, {**SQUARE, "resample": 3}, MASK, "resample=.*bilinearly"),
        (3, LIMITED, MASK, "limits the longest edge.*fixed one"),
        (3, SQUARE, {**MASK, "format": "openvino"}, "only onnx and torch-export resize"),
        # It is not told to fix a size, which it cannot.
        (3, LIMITED, {"format": "transformers-js"}, "of any size cannot do: save it without longest_edge"),
    ],
)
def test_what_cannot_be_exported_is_refused(channels: int, settings, options, message: str, tmp_path: Path) -> None:
    model = KASegModel(KASegConfig(backbone="test_resnet", num_channels=channels))
    data = Int8Data([], []) if channels == 4 and "dtype" in options else None
    with pytest.raises(ValueError, match=message):
        export_model(model, KASegImageProcessor(**settings), tmp_path / "export", ExportOptions(**options), data)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package, options", [("onnx", {}), ("openvino", {}), ("executorch", {"size": (64, 64)})])
def test_a_missing_package(model, processor, tmp_path: Path, monkeypatch, package: str, options: dict) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"{package} is needed for exports to {package}.*pip install"):
        export_model(model, processor, tmp_path / "export", ExportOptions(package, **options))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_too_large_a_loss_of_int8_is_refused(model, processor, tmp_path: Path) -> None:
    scenes = load_segmentation_dataset("scenes", split="validation", num_scenes=2, height=64, width=96)
    options = ExportOptions(dtype="int8", size=(64, 96))
    data = Int8Data(scenes, scenes, samples=2, methods=("minmax",), max_loss=-100)
    with pytest.raises(QuantizationLossError, match=r"int8 costs .* points of mean IoU .* allowed are -100"):
        export_model(model, processor, tmp_path / "export", options, data)
    assert list(tmp_path.iterdir()) == []
