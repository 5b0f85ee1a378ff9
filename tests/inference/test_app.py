import json
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from javascript_tools import chromium, node
from PIL import Image
from toy import write_clip

from kaseg import KASegConfig, KASegImageProcessor, KASegModel
from kaseg.data.scenes import render_scene
from kaseg.inference import Predictor, app
from kaseg.inference.app import (
    KEPT_SECONDS,
    MAX_FRAMES,
    _Page,
    build,
    draw,
    launch,
    legend,
    save_downloads,
    segment,
    shares,
)

gradio = pytest.importorskip("gradio", reason="gradio is not installed (the demo extra)")

NAMES = {0: "road", 1: "<b>sky</b>", 2: "car"}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return _predictor(0)


def _predictor(seed: int) -> Predictor:
    torch.manual_seed(seed)
    config = KASegConfig(backbone="mobilenetv2_035", output_stride=32, head_channels=16, id2label=NAMES)
    model = KASegModel(config)
    with torch.no_grad():
        model.classifier.weight.normal_(std=5.0)  # so that several classes are seen
    return Predictor(model, KASegImageProcessor())


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(render_scene(0, 1, 64, 96)[0])


def test_masks_are_the_predictors(predictor, image) -> None:
    found = segment(predictor, image.convert("RGBA"))
    assert np.array_equal(found.mask, predictor.predict([image])[0]) and found.milliseconds > 0
    ids, counts = np.unique(found.mask, return_counts=True)
    expected = {NAMES[int(i)]: count / found.mask.size for i, count in zip(ids, counts, strict=True)}
    assert shares(predictor, found) == pytest.approx(expected)
    assert list(shares(predictor, found).values()) == sorted(expected.values(), reverse=True)


def test_street_scenes_are_examples_for_models_of_streets_alone(predictor) -> None:
    animals = KASegModel(KASegConfig(backbone="mobilenetv2_035", output_stride=32, id2label={0: "person", 1: "cat"}))
    found = [
        [block for block in build({"a": given}).blocks.values() if type(block).__name__ == "Dataset"]
        for given in (predictor, Predictor(animals, KASegImageProcessor()))
    ]
    assert [len(blocks) for blocks in found] == [2, 0]


def test_classes_are_switched_off_and_opacity_counts(predictor, image) -> None:
    found = segment(predictor, image)
    names = list(shares(predictor, found))
    assert len(names) > 1
    original = np.asarray(found.image)
    assert np.array_equal(np.asarray(draw(predictor, found, [], 1.0)), original)
    assert np.array_equal(np.asarray(draw(predictor, found, names, 0.0)), original)
    index = next(i for i, name in NAMES.items() if name == names[0])
    one = np.asarray(draw(predictor, found, names[:1], 1.0))
    assert (one[found.mask == index] == np.asarray(predictor.palette[index])).all()
    assert np.array_equal(one[found.mask != index], original[found.mask != index])


def test_names_are_text_not_markup(predictor, image) -> None:
    found = segment(predictor, image)
    found.mask[:2] = 1
    assert "&lt;b&gt;sky&lt;/b&gt;" in legend(predictor, found) and "<b>" not in legend(predictor, found)


def test_downloads_hold_the_mask(predictor, image, tmp_path) -> None:
    found = segment(predictor, image)
    mask, picture = save_downloads(predictor, found, found.image, tmp_path)
    assert np.array_equal(np.asarray(Image.open(mask)), found.mask)
    assert Image.open(picture).width >= image.width and Image.open(picture).height > image.height


def test_downloads_of_an_hour_ago_are_removed(predictor, image, tmp_path) -> None:
    found = segment(predictor, image)
    old, fresh = (Path(save_downloads(predictor, found, found.image, tmp_path)[0]).parent for _ in range(2))
    os.utime(old, (time.time() - 3700,) * 2)
    newest = Path(save_downloads(predictor, found, found.image, tmp_path)[0]).parent
    assert sorted(tmp_path.iterdir()) == sorted([fresh, newest])


def test_nothing_is_left_on_the_disk(predictor, tmp_path, monkeypatch) -> None:
    """Nor in Gradio's cache, which it clears where it is told to."""
    at_exit: list[partial] = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("atexit.register", lambda *what, **how: at_exit.append(partial(*what, **how)))
    assert build({"a": predictor}).delete_cache == (600, KEPT_SECONDS) == (600, 3600)
    (folder,) = tmp_path.glob("kaseg-demo-*")
    for call in at_exit:
        if call.args == (folder,):
            call()
    assert not folder.exists()


def test_no_image_is_no_error(predictor, tmp_path) -> None:
    page = _Page({"a": predictor}, tmp_path)
    assert page.segment(None, "a", 0.5)[0] is None
    assert page.redraw(None, "a", [], 0.5) == (None, None, None)
    assert page.compare(None, "a", "a", 0.5) == (None, "") and page.video(None, "a") == (None, "")


def test_two_models_side_by_side(predictor, image, tmp_path) -> None:
    (left, right), line = _Page({"a": predictor, "b": predictor}, tmp_path).compare(image, "a", "b", 0.5)
    assert np.array_equal(np.asarray(left), np.asarray(right)) and "left `a`" in line and "right `b`" in line


def test_a_clip_is_cut_to_its_first_frames(predictor, tmp_path, monkeypatch) -> None:
    write_clip(tmp_path / "clip.mp4", [np.full((48, 64, 3), 40 * index, np.uint8) for index in range(4)])
    assert MAX_FRAMES > 3
    monkeypatch.setattr("kaseg.inference.app.MAX_FRAMES", 3)
    written, line = _Page({"a": predictor}, tmp_path).video(str(tmp_path / "clip.mp4"), "a")
    assert Path(written).is_file() and line.startswith("3 frames")


def test_a_page_needs_a_model() -> None:
    with pytest.raises(ValueError, match="at least one model"):
        build({})


@pytest.fixture(scope="module")
def address(predictor) -> Iterator[str]:
    before = Image.MAX_IMAGE_PIXELS
    blocks = build({"small": predictor, "second": _predictor(1)})
    yield launch(blocks, block=False).rstrip("/")
    blocks.close()
    Image.MAX_IMAGE_PIXELS = before


def _status(request: str | urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
class TestServer:
    def test_it_listens_on_this_machine_alone(self, address: str) -> None:
        assert address.startswith("http://127.0.0.1:") and _status(address) == 200

    def test_no_file_of_the_machine_is_read_through_it(self, address: str, tmp_path) -> None:
        secret = tmp_path / "secret.txt"
        secret.write_text("secret")
        Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
        for path in (secret, tmp_path / "secret.png", Path(__file__), "/etc/passwd"):
            assert _status(f"{address}/gradio_api/file={path}") in (403, 404), path
        # Nor as what an event is given.
        data = {"path": str(tmp_path / "secret.png"), "meta": {"_type": "gradio.FileData"}}
        body = json.dumps({"data": [data, "small", 0.5]}).encode()
        request = urllib.request.Request(
            f"{address}/gradio_api/run/segment", body, {"Content-Type": "application/json"}, method="POST"
        )
        assert _status(request) >= 400

    def test_small_files_of_huge_images_are_refused(self, address: str, tmp_path) -> None:
        Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")  # 10 kB, and 81 megapixels
        assert (tmp_path / "bomb.png").stat().st_size < 100_000
        with pytest.raises(Image.DecompressionBombError):
            Image.open(tmp_path / "bomb.png")
        assert app.MAX_MEGAPIXELS == 64

    def test_large_uploads_are_refused(self, address: str) -> None:
        edge = "edge"
        head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'.encode()
        body = head + b"0" * 53_000_000 + f"\r\n--{edge}--\r\n".encode()
        content = {"Content-Type": f"multipart/form-data; boundary={edge}"}
        assert _status(urllib.request.Request(f"{address}/gradio_api/upload", body, content, method="POST")) == 413


@pytest.mark.slow
def test_in_chromium(address: str, image, tmp_path) -> None:
    program = chromium()
    image.save(tmp_path / "photo.png")
    seen = node("demo.mjs", program, address, str(tmp_path / "photo.png"))
    assert "for 96x64 pixels" in seen["speed"] and "small" in seen["speed"]
    second = _predictor(1)
    expected = shares(second, segment(second, image))
    assert seen["classes"] == len(expected) and all(name in seen["legend"] for name in expected)
    # The masks of both models, and the second's without a class.
    assert seen["differ"] == 3 and seen["errors"] == []
    assert seen["width"] <= 390, "wider than a phone"
