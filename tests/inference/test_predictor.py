"""Predictor: masks in memory and files on disk."""

import copy
import errno
import os
import re
import runpy
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy import mask_of
from transformers import AutoImageProcessor, MobileNetV2ForSemanticSegmentation

from kaseg import KASegConfig, KASegModel
from kaseg.data.label_spaces import palette_for
from kaseg.image_processing_kaseg import KASegImageProcessor
from kaseg.inference import Predictor

NAMES = {0: "background", 1: "cat", 2: "dog", 3: "tree", 4: "sky"}


@pytest.fixture(scope="module")
def model() -> KASegModel:
    torch.manual_seed(0)
    model = KASegModel(KASegConfig(backbone="mobilenetv2_035", output_stride=32, num_labels=5, id2label=NAMES))
    with torch.no_grad():
        model.classifier.weight.mul_(50)  # random logits that differ between positions
    return model.eval()


@pytest.fixture
def predictor(model: KASegModel) -> Predictor:
    return Predictor(model, KASegImageProcessor(), batch_size=2)


def make_image(height: int, width: int, seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height))


def direct(model: KASegModel, image: Image.Image) -> np.ndarray:
    return mask_of(model, KASegImageProcessor(), image.convert("RGB"))


def agreement(left: np.ndarray, right: np.ndarray) -> float:
    assert left.shape == right.shape
    return float((left == right).mean())


def test_masks_have_the_size_of_the_pictures_in_their_order(model: KASegModel, predictor: Predictor) -> None:
    sizes = [(64, 96), (70, 41), (64, 96), (64, 96), (33, 90)]
    images = [make_image(*size, seed=i) for i, size in enumerate(sizes)]
    images[1] = images[1].convert("L")
    batches: list[int] = []
    hook = model.register_forward_hook(lambda module, args, outputs: batches.append(len(outputs.logits)))
    masks = predictor.predict(images)
    hook.remove()
    assert sorted(batches) == [1, 1, 1, 2]  # batches of one size, two at most, every image once
    assert [mask.shape for mask in masks] == sizes and all(mask.dtype == np.uint8 for mask in masks)
    assert len({mask.tobytes() for mask in masks}) == 5
    for image, mask in zip(images, masks, strict=True):
        assert agreement(mask, direct(model, image)) > 0.999
    assert predictor.predict([]) == []


def test_a_processor_that_pads_or_crops_does_not_shift_the_mask(model: KASegModel) -> None:
    processor = KASegImageProcessor(do_pad=True, size_divisor=64)
    image = make_image(70, 41, seed=1)
    assert agreement(Predictor(model, processor).predict([image])[0], direct(model, image)) > 0.999


def test_large_pictures_are_tiled(model: KASegModel) -> None:
    image = make_image(150, 170, seed=3)
    tiled = Predictor(model, KASegImageProcessor(), max_pixels=128 * 128, tile=128, overlap=32)
    one_tile = Predictor(model, KASegImageProcessor(), max_pixels=1, tile=256, overlap=64)
    reference = direct(model, image)
    assert agreement(one_tile.predict([image])[0], reference) > 0.999
    mask = tiled.predict([image])[0]
    assert mask.shape == (150, 170) and 0.2 < agreement(mask, reference) < 1


def test_files_become_palette_masks_and_overlays(model: KASegModel, predictor: Predictor, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        make_image(64, 96, seed=ord(folder)).save(tmp_path / folder / "x.png")
    results = list(predictor.predict_files([tmp_path / "a", tmp_path / "b"], tmp_path / "out"))
    assert [result.mask_path for result in results] == [tmp_path / f"out/{name}/x_mask.png" for name in "ab"]
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert written == ["a/x_mask.png", "a/x_overlay.jpg", "b/x_mask.png", "b/x_overlay.jpg"]
    for result in results:
        assert result.mask_path and result.overlay_path and result.error is None
        stored = Image.open(result.mask_path)
        ids = np.array(stored)
        assert stored.mode == "P"
        assert agreement(ids, direct(model, Image.open(result.path))) > 0.999
        np.testing.assert_array_equal(np.asarray(stored.convert("RGB")), np.array(palette_for(5))[ids])
        assert result.fractions == {i: (ids == i).mean() for i in np.unique(ids)}
        assert Image.open(result.overlay_path).height > 64


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_large_pictures_take_turns_with_all_threads(model, two_threads, tmp_path, monkeypatch):
    predictor = Predictor(model, KASegImageProcessor(), max_pixels=40 * 40)
    working: list[int] = []
    seen: list[tuple[int, int]] = []

    def watched(images: object) -> list[np.ndarray]:
        working.append(1)
        time.sleep(0.02)
        seen.append((len(working), torch.get_num_threads()))
        working.pop()
        return [np.zeros((48, 40), np.uint8)]

    monkeypatch.setattr(predictor, "_predict", watched)
    for index in range(4):
        make_image(48, 40, seed=index).save(tmp_path / f"{index}.png")
    assert len(list(predictor.predict_files(tmp_path, tmp_path / "out"))) == 4
    assert seen == [(1, 2)] * 4


def test_several_pictures_at_once_and_the_threads_given_back(model, two_threads, tmp_path, monkeypatch):
    predictor = Predictor(model, KASegImageProcessor())
    barrier = threading.Barrier(2, timeout=60)  # passes only where two images are at work at once
    seen: list[int] = []

    def watched(images: object) -> list[np.ndarray]:
        barrier.wait()
        seen.append(torch.get_num_threads())
        return [np.zeros((40, 48), np.uint8)]

    monkeypatch.setattr(predictor, "_predict", watched)
    for index in range(4):
        make_image(40, 48, seed=index).save(tmp_path / f"{index}.png")
    results = list(predictor.predict_files(tmp_path, tmp_path / "out"))
    assert [result.path.name for result in results] == [f"{index}.png" for index in range(4)]
    assert seen == [1] * 4 and torch.get_num_threads() == 2


def test_overlays_of_huge_pictures_are_reduced(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr("kaseg.inference.predictor._LONGEST_OVERLAY", 60)
    make_image(60, 120, 0).save(tmp_path / "x.png")
    (result,) = predictor.predict_files(tmp_path / "x.png", tmp_path / "out")
    assert result.mask_path and result.overlay_path
    assert Image.open(result.mask_path).size == (120, 60)
    drawn = Image.open(result.overlay_path)
    assert drawn.height > 30 and np.asarray(drawn)[:30, :60].std() > 5


def test_masks_alone(predictor: Predictor, tmp_path: Path) -> None:
    make_image(32, 32, 0).save(tmp_path / "x.png")
    (result,) = predictor.predict_files(tmp_path / "x.png", tmp_path / "out", overlay=False)
    assert result.overlay_path is None and os.listdir(tmp_path / "out") == ["x_mask.png"]


def test_the_palette_of_the_checkpoint_is_used(model: KASegModel, tmp_path: Path) -> None:
    predictor = Predictor(model, KASegImageProcessor())
    assert list(predictor.palette) == list(palette_for(5))
    own = KASegConfig(num_labels=5, palette=[[9, 9, i] for i in range(5)])
    before, model.config = model.config, own
    try:
        assert predictor.palette == own.palette
    finally:
        model.config = before


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    "settings, said",
    [
        ({}, "bad.png"),
        (
            {"do_resize": True, "size": {"shortest_edge": 32, "longest_edge": 64}},
            "an image of (height, width) (1, 5000) cannot be resized",
        ),
    ],
)
def test_bad_pictures_are_skipped_by_name(batch_size, settings: dict, said: str, model, tmp_path, caplog) -> None:
    for name in ("a.png", "c.png", "d.png"):
        make_image(40, 40, 1).save(tmp_path / name)
    make_image(1, 5000, 1).save(tmp_path / "bad.png")
    if not settings:
        (tmp_path / "bad.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    predictor = Predictor(model, KASegImageProcessor(**settings), batch_size=batch_size)

    results = list(predictor.predict_files(tmp_path, tmp_path / "out", on_error="skip"))
    assert [result.path.name for result in results] == ["a.png", "bad.png", "c.png", "d.png"]
    assert [result.mask_path is None for result in results] == [False, True, False, False]
    assert results[1].error and said in results[1].error
    assert "1 of 4 images" in caplog.text and "bad.png" in caplog.text and said in caplog.text

    done = []
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        for result in predictor.predict_files(tmp_path, tmp_path / "out", on_error="raise"):
            done.append(result.path.name)
    assert done == ["a.png"] and "bad.png" in "".join([str(caught.value), *getattr(caught.value, "__notes__", [])])


def test_a_full_disk_names_the_file(predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_image(32, 32, 0).save(tmp_path / "x.png")

    def no_space(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(OSError, match="x_mask.png: No space left"):
        list(predictor.predict_files(tmp_path / "x.png", tmp_path / "out", on_error="skip"))
    assert os.listdir(tmp_path / "out") == []


def test_a_failing_model_names_the_picture(predictor: Predictor, tmp_path: Path) -> None:
    make_image(32, 32, 0).save(tmp_path / "x.png")
    predictor.processor = KASegImageProcessor(do_resize=True)
    with pytest.raises(ValueError) as caught:
        list(predictor.predict_files(tmp_path / "x.png", tmp_path / "out"))
    assert any("x.png" in note for note in caught.value.__notes__)


def test_wrong_arguments_are_refused_before_any_work(predictor: Predictor, model: KASegModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="on_error"):
        predictor.predict_files(tmp_path, tmp_path / "out", on_error="ignore")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        predictor.predict_files(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ValueError, match="batch_size"):
        Predictor(model, KASegImageProcessor(), batch_size=0)


def test_half_precision(model: KASegModel) -> None:
    image = make_image(64, 96, 5)
    half = Predictor(copy.deepcopy(model).to(torch.bfloat16), KASegImageProcessor())
    assert agreement(half.predict([image])[0], direct(model, image)) > 0.8


def test_a_real_deeplab_on_real_pictures(voc_deeplab: Path, voc: Path) -> None:
    """The transformers DeepLab with its own processor gets most pixels of VOC images right (0.83 when written)."""
    deeplab = MobileNetV2ForSemanticSegmentation.from_pretrained(voc_deeplab)
    predictor = Predictor(deeplab, AutoImageProcessor.from_pretrained(voc_deeplab))
    stems = (voc / "VOC2012/ImageSets/Segmentation/val.txt").read_text().split()[:4]
    right = valid = 0
    for stem in stems:
        truth = np.array(Image.open(voc / f"VOC2012/SegmentationClass/{stem}.png"))
        (mask,) = predictor.predict([Image.open(voc / f"VOC2012/JPEGImages/{stem}.jpg")])
        right += int(((mask == truth) & (truth != 255)).sum())
        valid += int((truth != 255).sum())
    assert right / valid > 0.75


@pytest.mark.parametrize("fields", [{"tile": 1000}, {"tile": 64, "overlap": 64}, {"overlap": -1}])
def test_impossible_tiles(model: KASegModel, fields: dict) -> None:
    with pytest.raises(ValueError, match="tile must be a multiple of 32"):
        Predictor(model, KASegImageProcessor(), **fields)


def test_models_of_other_images_are_refused() -> None:
    gray = KASegModel(KASegConfig(backbone="mobilenetv2_035", output_stride=32, num_channels=1))
    with pytest.raises(ValueError, match="images of 1 channels"):
        Predictor(gray, KASegImageProcessor())


def test_the_benchmark_of_its_stages_runs(predictor: Predictor) -> None:
    """It calls them one by one, by names that are not public."""
    file = Path(__file__).parents[1] / "benchmarks/predict_throughput.py"
    measured = runpy.run_path(str(file))["measure"](predictor, (48, 64), "png", count=2, repeats=1)
    assert measured["slowest"] in ("decode", "preprocess", "model", "write") and measured["ratio"] > 0
