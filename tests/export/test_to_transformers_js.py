"""What `kaseg export --format transformers-js` writes, run by transformers.js on Node and in Chromium."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from javascript_tools import JAVASCRIPT, browse, needs_node, node, serving
from PIL import Image
from toy import mask_of
from transformers import AutoImageProcessor, MobileNetV2ForSemanticSegmentation
from transformers.modeling_outputs import SemanticSegmenterOutput

from kaseg import KASegImageProcessor, KASegModel
from kaseg.data import load_segmentation_dataset
from kaseg.data.scenes import render_scene
from kaseg.export import ExportOptions, Int8Data, export_model, exporter
from kaseg.export.graph import export_program
from kaseg.export.to_transformers_js import JS_FILES

SIZES = ((64, 96), (65, 97), (48, 48), (33, 127), (100, 75))
SAME = 0.995
READY = "'segment' in window"
RESIZING = KASegImageProcessor(do_resize=True, size={"shortest_edge": 56}, image_mean=[0.4, 0.5, 0.6])


@pytest.fixture(scope="module")
def folder(exported: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model/`, an export in all types, `resizing/`, one that resizes, and `images/`, PNG files of five sizes."""
    needs_node()
    root = tmp_path_factory.mktemp("javascript")
    scenes = load_segmentation_dataset("scenes", split="train", num_scenes=4, height=48, width=64)
    int8 = Int8Data(scenes, scenes, samples=2, methods=("minmax",), max_loss=100)
    (root / "model").symlink_to(exported(int8=int8, format="transformers-js", dtype="int8"))
    (root / "resizing").symlink_to(exported(by=RESIZING, format="transformers-js"))
    (root / "images").mkdir()
    for index, (height, width) in enumerate(SIZES):
        Image.fromarray(render_scene(0, index)[0]).resize((width, height)).save(root / "images" / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def masks(folder: Path, model: KASegModel, processor: KASegImageProcessor) -> list[np.ndarray]:
    return python_masks(model, processor, sorted((folder / "images").iterdir()))


def python_masks(model: Any, processor: KASegImageProcessor, files: list[Path]) -> list[np.ndarray]:
    return [mask_of(model, processor, Image.open(file)) for file in files]


def javascript_masks(results: list[dict[str, Any]]) -> list[np.ndarray]:
    decoded = [np.frombuffer(base64.b64decode(result["ids"]), np.uint8) for result in results]
    return [ids.reshape(r["height"], r["width"]) for ids, r in zip(decoded, results, strict=True)]


def on_node(root: Path, dtype: str | None, name: str = "model") -> list[np.ndarray]:
    images = [str(file) for file in sorted((root / "images").iterdir())]
    request = {"models": str(root), "name": name, "dtype": dtype, "images": images}
    return javascript_masks(node("node.mjs", json.dumps(request)))


def in_chromium(root: Path, dtype: str | None, name: str = "model") -> list[np.ndarray]:
    images = [f"/images/{file.name}" for file in sorted((root / "images").iterdir())]
    request = json.dumps({"models": "/models/", "name": name, "dtype": dtype, "images": images})
    with serving({"/": JAVASCRIPT, "/models/": root, "/images/": root / "images"}) as url:
        return javascript_masks(browse(f"{url}/browser.html", READY, f"segment({request})")["result"])


def agreement(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    assert [mask.shape for mask in found] == [mask.shape for mask in expected]
    return min(float((a == b).mean()) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("run", [on_node, in_chromium])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_javascript_gives_the_masks_of_python(run, dtype: str, folder: Path, masks: list[np.ndarray]) -> None:
    assert agreement(run(folder, dtype), masks) >= SAME
    assert len(np.unique(np.concatenate([mask.ravel() for mask in masks]))) > 2


@pytest.mark.parametrize("run", [on_node, in_chromium])
def test_int8_is_taken_by_default(run, folder: Path, processor: KASegImageProcessor, masks: list[np.ndarray]) -> None:
    quantized, by_default = run(folder, "q8"), run(folder, None)
    assert all((a == b).all() for a, b in zip(quantized, by_default, strict=True))
    assert any((a != b).any() for a, b in zip(quantized, masks, strict=True))
    if run is in_chromium:  # whose integer kernels add up otherwise than those of this processor
        return
    session = onnxruntime.InferenceSession(folder / "model" / JS_FILES["int8"])

    def network(pixel_values: torch.Tensor) -> SemanticSegmenterOutput:
        (logits,) = session.run(None, {"pixel_values": pixel_values.numpy()})
        return SemanticSegmenterOutput(logits=torch.from_numpy(logits))

    expected = python_masks(network, processor, sorted((folder / "images").iterdir()))
    assert agreement(quantized, expected) >= 0.98


@pytest.mark.parametrize("run", [on_node, in_chromium])
def test_the_graph_resizes_where_the_processor_does(run, folder: Path, model: KASegModel) -> None:
    expected = python_masks(model, RESIZING, sorted((folder / "images").iterdir()))
    assert agreement(run(folder, "fp32", "resizing"), expected) >= SAME


def test_a_processor_that_pads_is_refused_before_anything_is_traced(model, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("kaseg.export.exporter.export_program", None)  # calling it would fail
    with pytest.raises(ValueError, match="do_pad=True"):
        export_model(model, KASegImageProcessor(do_pad=True), tmp_path / "out", ExportOptions("transformers-js"))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_real_network_on_photos(voc_deeplab: Path, voc: Path, tmp_path: Path, monkeypatch) -> None:
    """Traced for one size, since for all sizes that takes a minute of this network."""
    needs_node()
    theirs = AutoImageProcessor.from_pretrained(voc_deeplab)
    processor = KASegImageProcessor(image_mean=theirs.image_mean, image_std=theirs.image_std)
    network = KASegModel.from_transformers(MobileNetV2ForSemanticSegmentation.from_pretrained(voc_deeplab))
    one_size = ExportOptions(size=(240, 320))
    monkeypatch.setattr(exporter, "export_program", lambda graph, *_: export_program(graph, 3, one_size))
    export_model(network, processor, tmp_path / "model", ExportOptions("transformers-js"), parity_sizes=())
    (tmp_path / "images").mkdir()
    for name in (voc / "VOC2012/ImageSets/Segmentation/val.txt").read_text().split()[:2]:
        photo = Image.open(voc / f"VOC2012/JPEGImages/{name}.jpg").resize((320, 240))
        photo.save(tmp_path / "images" / f"{name}.png")
    expected = python_masks(network, processor, sorted((tmp_path / "images").iterdir()))
    assert min(len(np.unique(mask)) for mask in expected) > 1
    for run in (on_node, in_chromium):
        for dtype in ("fp32", "fp16"):
            assert agreement(run(tmp_path, dtype), expected) >= SAME, (run.__name__, dtype)
