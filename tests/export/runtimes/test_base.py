"""What all runtimes do."""

import json
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kaseg import KASegImageProcessor, KASegLiteRTModel, KASegModel, KASegOnnxModel, KASegOpenVINOModel
from kaseg.data import load_segmentation_dataset
from kaseg.evaluation.evaluator import evaluate_model
from kaseg.export import MissingPackageError
from kaseg.export.runtimes import openvino as openvino_file
from kaseg.export.runtimes.openvino import OPENVINO_NAME, compile_model, openvino_core
from kaseg.inference import Predictor

RUNTIMES = {
    "onnx": (KASegOnnxModel, "model.onnx", "onnxruntime"),
    "openvino": (KASegOpenVINOModel, "openvino_model.bin", "openvino"),
    "litert": (KASegLiteRTModel, "model.tflite", "ai_edge_litert.interpreter"),
}
any_size = pytest.mark.parametrize("engine", ["onnx", "openvino"])


@pytest.fixture(params=list(RUNTIMES))
def engine(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def export(engine: str, exported: Callable[..., Path]) -> Path:
    if engine != "litert":
        return exported(format=engine)
    pytest.importorskip("litert_torch", reason="litert-torch is not installed")
    return exported(format=engine, size=(64, 64))


@pytest.fixture
def folder(export: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return shutil.copytree(export, tmp_path / "copy")


@any_size
def test_same_outputs_as_the_model(engine: str, export: Path, model: KASegModel) -> None:
    runtime = RUNTIMES[engine][0].from_pretrained(export, threads=1)
    assert runtime.config.id2label == model.config.id2label
    for shape in ((1, 3, 257, 319), (3, 3, 40, 72)):
        image = torch.randn(shape)
        with torch.no_grad():
            expected = model(pixel_values=image).logits
        logits = runtime(pixel_values=image).logits
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    outputs, kept = runtime(image, return_dict=False), logits.clone()
    assert type(outputs) is tuple and torch.equal(outputs[0], logits)
    runtime(-image)
    assert torch.equal(logits, kept)  # no memory that the engine writes to again


@any_size
def test_it_is_scored_and_predicts_like_the_model(engine, export, model, processor):
    runtime = RUNTIMES[engine][0].from_pretrained(export)
    scenes = load_segmentation_dataset("scenes", split="validation", num_scenes=1)
    expected = evaluate_model(model, scenes, processor)["mean_iou"]
    assert evaluate_model(runtime, scenes, processor)["mean_iou"] == pytest.approx(expected, abs=1e-3)
    picture = Image.effect_noise((70, 50), 90).convert("RGB")
    (mask,), (own,) = Predictor(runtime, processor).predict([picture]), Predictor(model, processor).predict([picture])
    assert (mask == own).mean() > 0.999


def test_saved_and_loaded_again(folder: Path, engine: str, tmp_path: Path) -> None:
    runtime = RUNTIMES[engine][0].from_pretrained(folder)
    runtime.save_pretrained(tmp_path / "saved")
    runtime.save_pretrained(folder)  # onto itself
    assert {p.name for p in (tmp_path / "saved").iterdir()} == {p.name for p in folder.iterdir()}
    again = RUNTIMES[engine][0].from_pretrained(tmp_path / "saved")
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(runtime(image).logits, again(image).logits)
    KASegImageProcessor.from_pretrained(tmp_path / "saved")


def test_the_input_goes_by_its_name(engine: str, export: Path) -> None:
    runtime = RUNTIMES[engine][0].from_pretrained(export)
    name = {
        "onnx": lambda: runtime.session.get_inputs()[0].name,
        "openvino": lambda: runtime.compiled.input().any_name,
        "litert": lambda: runtime._input_name,
    }[engine]()
    assert name == "pixel_values"


class TestErrors:
    def test_a_truncated_or_changed_file(self, engine: str, folder: Path) -> None:
        cls, name, _ = RUNTIMES[engine]
        content = (folder / name).read_bytes()
        changed = bytearray(content)
        changed[len(content) // 2] ^= 1
        for damaged in (content[:-100], b"", bytes(changed)):
            (folder / name).write_bytes(damaged)
            with pytest.raises(ValueError, match=rf"{name} is damaged, cut off or another file.*export again"):
                cls.from_pretrained(folder)

    def test_a_broken_file_that_its_record_agrees_with(self, engine: str, folder: Path) -> None:
        cls, name, _ = RUNTIMES[engine]
        name = name.replace(".bin", ".xml")
        (folder / name).write_bytes(b"no model")
        record = json.loads((folder / "export.json").read_text())
        record["files"] = {}
        (folder / "export.json").write_text(json.dumps(record))
        with pytest.raises(ValueError, match=rf"{name} is no .* model that .*Export it again"):
            cls.from_pretrained(folder)

    def test_a_missing_file_a_missing_record_a_damaged_record(self, engine: str, folder: Path) -> None:
        cls, name, _ = RUNTIMES[engine]
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match=rf"{name} is missing, which export.json names"):
            cls.from_pretrained(folder)
        (folder / "export.json").write_text('{"format": "on')
        with pytest.raises(ValueError, match="is no record of an export"):
            cls.from_pretrained(folder)
        (folder / "export.json").unlink()
        with pytest.raises(FileNotFoundError, match="holds no export of kaseg .*kaseg export"):
            cls.from_pretrained(folder)

    def test_wrong_inputs(self, engine: str, export: Path) -> None:
        runtime = RUNTIMES[engine][0].from_pretrained(export)
        with pytest.raises(ValueError, match=r"must be floating point .* got torch.uint8"):
            runtime(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
        for shape in ((3, 32, 32), (2, 3, 32), (1, 4, 32, 32), (1, 3, 0, 32)):
            got = rf"shape \(batch, 3, height, width\), got {re.escape(str(shape))}"
            with pytest.raises(ValueError, match=got):
                runtime(torch.zeros(shape))
        with pytest.raises(TypeError, match=r"must be a tensor, got ndarray: KASegImageProcessor"):
            runtime(np.zeros((1, 3, 32, 32), np.float32))
        with pytest.raises(ValueError, match="This export gives logits"):
            runtime.masks(np.zeros((1, 32, 32, 3), np.uint8))

    def test_a_missing_runtime(self, engine: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        cls, _, package = RUNTIMES[engine]
        monkeypatch.setitem(sys.modules, package, None)
        message = rf'{package.partition(".")[0]} is needed to run .*pip install "kaseg\['
        with pytest.raises(MissingPackageError, match=message):
            cls.from_pretrained(folder)

    def test_an_export_for_another_engine(self, engine: str, folder: Path) -> None:
        other = KASegOpenVINOModel if engine == "onnx" else KASegOnnxModel
        with pytest.raises(ValueError, match=f"is an export for {engine}, not for {other.format}"):
            other.from_pretrained(folder)

    def test_neither_folder_nor_repository(self, engine: str) -> None:
        with pytest.raises(OSError, match="HF_HUB_OFFLINE forbids the network"):
            RUNTIMES[engine][0].from_pretrained("me/nothing")
        with pytest.raises(FileNotFoundError, match="camvid-onx: no such folder"):
            RUNTIMES[engine][0].from_pretrained("camvid-onx")
        with pytest.raises(OSError, match="./no/where: no such folder"):
            RUNTIMES[engine][0].from_pretrained("./no/where")
        with pytest.raises(FileNotFoundError, match="kaseg/.*-plain holds no export of kaseg .*kaseg export"):
            RUNTIMES[engine][0].from_pretrained("kaseg/mobilenetv2-os16-camvid-plain")

    def test_threads(self, engine: str, folder: Path) -> None:
        runtime = RUNTIMES[engine][0].from_pretrained(folder, threads=1)
        if engine == "onnx":
            assert runtime.session.get_session_options().intra_op_num_threads == 1
        elif engine == "openvino":
            assert runtime.compiled.get_property("INFERENCE_NUM_THREADS") == 1
        with pytest.raises(ValueError, match="threads must be at least 1, .*got 0"):
            RUNTIMES[engine][0].from_pretrained(folder, threads=0)


def test_wrong_images_for_a_mask_graph(exported: Callable[..., Path]) -> None:
    runtime = KASegOnnxModel.from_pretrained(exported(output="mask", image_dtype="uint8"))
    with pytest.raises(ValueError, match="takes uint8 images with values in 0..255, got float32"):
        runtime.masks(np.zeros((1, 32, 32, 3), np.float32))
    with pytest.raises(ValueError, match=r"shape \(batch, height, width, 3\), got \(1, 3, 32, 32\)"):
        runtime.masks(np.zeros((1, 3, 32, 32), np.uint8))
    with pytest.raises(ValueError, match="takes images and gives masks"):
        runtime(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"got \(1, 32, 40\).*convert\('RGB'\)"):
        runtime.masks([Image.new("L", (40, 32))])
    with pytest.raises(TypeError, match=r"got Image. For a single one: masks\(\[image\]\)"):
        runtime.masks(Image.new("RGB", (40, 32)))
    with pytest.raises(ValueError, match=r"one size and mode, .*\(32, 40, 3\), \(40, 32, 3\)"):
        runtime.masks([Image.new("RGB", (40, 32)), Image.new("RGB", (32, 40))])
    for nothing in ([], ["street.jpg"]):
        with pytest.raises(ValueError, match="PIL images or arrays of numbers, at least one"):
            runtime.masks(nothing)
    picture = Image.new("RGB", (40, 32))
    assert runtime.masks([picture, picture]).shape == (2, 32, 40)


def test_providers_and_devices_that_are_not_there(exported: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="lacks NoSuchProvider; it has .*CPUExecutionProvider"):
        KASegOnnxModel.from_pretrained(exported(), providers=["NoSuchProvider"])
    with pytest.raises(ValueError, match="sees no device 'TPU' here; it sees CPU"):
        KASegOpenVINOModel.from_pretrained(exported(format="openvino"), device="TPU")


def test_openvino_computes_in_the_type_that_was_exported(exported, monkeypatch):
    """It is asked to; what it then does shows only where the processor can do bfloat16."""
    file, core, asked = exported(format="openvino") / OPENVINO_NAME, openvino_core(), []

    class Core:
        available_devices = core.available_devices

        def compile_model(self, file: str, device: str, settings: dict) -> object:
            asked.append(settings["INFERENCE_PRECISION_HINT"])
            return core.compile_model(file, device, settings)

    monkeypatch.setattr(openvino_file, "openvino_core", Core)
    for dtype in ("float32", "int8", "bf16"):
        compile_model(file, dtype)
    assert asked == ["f32", "f32", "bf16"]


def test_signals_are_handled_after_models_were_freed(exported: Callable[..., Path]) -> None:
    """In the order in which they were made. With an OpenVINO core each, the signal would end this process."""
    first, second = (KASegOpenVINOModel.from_pretrained(exported(format="openvino")) for _ in range(2))
    del first
    del second
    seen: list[int] = []
    before = signal.signal(signal.SIGCHLD, lambda number, _: seen.append(number))
    try:
        signal.raise_signal(signal.SIGCHLD)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert seen
