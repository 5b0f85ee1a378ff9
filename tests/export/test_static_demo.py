import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import RepoCard
from javascript_tools import MODULES, browse, chromium, node, serving
from PIL import Image
from toy import mask_of

from kaseg.data import SCENES
from kaseg.data.scenes import render_scene
from kaseg.export import static_demo
from kaseg.export.static_demo import write_static_demo

PACKAGE = MODULES / "onnxruntime-web"
FILES = ["README.md", "app.js", "index.html", "model.onnx", "ort-wasm-simd-threaded.wasm", "ort.wasm.bundle.min.mjs"]
READY = "/Ready|could not/.test(document.getElementById('status').textContent)"
# Drops a photo on the page and gives the size, the colors and the opacity of the mask; then the webcam's status line.
DROP = """(async () => {
  const status = document.getElementById('status'), stage = document.getElementById('stage');
  const until = async (pattern) => {
    while (!pattern.test(status.textContent)) await new Promise((resolve) => setTimeout(resolve, 20));
    return status.textContent;
  };
  if (status.textContent !== 'Ready.') throw new Error(status.textContent);
  const files = new DataTransfer();
  files.items.add(new File([await (await fetch('/images/photo.png')).blob()], 'photo.png', { type: 'image/png' }));
  stage.dispatchEvent(new DragEvent('drop', { dataTransfer: files, cancelable: true }));
  const photo = await until(/ ms$|could not/);
  const mask = document.getElementById('mask'), { width, height } = mask;
  const colors = [...mask.getContext('2d').getImageData(0, 0, width, height).data];
  const legend = document.getElementById('legend').textContent;
  document.getElementById('webcam').click();
  const webcam = await until(/frames per second|cannot be used/);
  return { photo, width, height, colors, legend, webcam, threads: crossOriginIsolated };
})()"""


@pytest.fixture
def export(exported: Callable[..., Path]) -> Path:
    return exported(output="mask")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder that has the files of onnxruntime-web by name alone."""
    folder = tmp_path / "onnxruntime-web"
    (folder / "dist").mkdir(parents=True)
    for name in FILES[-2:]:
        (folder / "dist" / name).write_bytes(name.encode())
    return folder


@pytest.fixture
def npm(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program called npm in front of the real one, which does what a line of shell does, by default pack."""
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    def write(does: str = f"tar -czf x.tgz -C {tmp_path} --transform s/{package.name}/package/ {package.name}") -> None:
        # As one asks for a range of versions: a later major version may lay its files out in another way.
        program.write_text(f"#!/bin/sh\ntest $2 = onnxruntime-web@1 || exit 2\n{does}\n")
        program.chmod(0o755)

    return write


@pytest.mark.parametrize("isolated", [False, True])
def test_a_dropped_photo_and_the_webcam_in_chromium(isolated, export, model, processor, tmp_path):
    chromium()
    write_static_demo(export, tmp_path / "page", PACKAGE)
    (tmp_path / "images").mkdir()
    photo = Image.fromarray(render_scene(1, 1)[0]).resize((97, 65))
    photo.save(tmp_path / "images" / "photo.png")
    with serving({"/": tmp_path / "page", "/images/": tmp_path / "images"}, isolated) as url:
        found = browse(f"{url}/index.html", READY, DROP)["result"]
    expected = mask_of(model, processor, photo)
    assert found["photo"].startswith("97x65: ") and (found["height"], found["width"]) == (65, 97)
    settings = json.loads((tmp_path / "page" / "settings.json").read_text())
    colors = np.array([[*color, 255] for color in settings["palette"]])[expected]
    same = (np.array(found["colors"]).reshape(65, 97, 4) == colors).all(axis=-1)
    assert same.mean() >= 0.995 and len(np.unique(expected)) > 2
    assert found["legend"] == "".join(SCENES.id2label[int(id_)] for id_ in np.unique(expected))
    assert "frames per second" in found["webcam"] and found["threads"] is isolated


def test_the_command_writes_all_that_the_page_asks_for(kaseg, export: Path, package: Path, tmp_path: Path) -> None:
    command = ("demo", export, "--static", tmp_path / "page", "--onnxruntime-web", package)
    kaseg.succeed(*command)
    assert sorted(file.name for file in (tmp_path / "page").iterdir()) == sorted([*FILES, "settings.json"])
    text = "".join((tmp_path / "page" / name).read_text() for name in ("index.html", "app.js"))
    assert "http://" not in text and "https://" not in text
    assert "sdk: static" in (tmp_path / "page" / "README.md").read_text()
    assert "not empty" in kaseg.fail(*command)


def test_the_card_holds_whatever_the_model_is_called(export: Path, package: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(export, tmp_path / "export")
    record = json.loads((folder / "export.json").read_text())
    (folder / "export.json").write_text(json.dumps({**record, "model": "runs/os16: #1/"}))
    write_static_demo(folder, tmp_path / "page", package)
    assert RepoCard.load(tmp_path / "page" / "README.md").data.to_dict()["title"] == "os16: #1"
    assert json.loads((tmp_path / "page" / "settings.json").read_text())["title"] == "os16: #1"


def test_what_is_missing_is_an_error(export: Path, package: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no export"):
        write_static_demo(tmp_path, tmp_path / "page", package)
    with pytest.raises(FileNotFoundError, match=r"ort.wasm.bundle.min.mjs.*npm package onnxruntime-web"):
        write_static_demo(export, tmp_path / "page", tmp_path)
    assert not (tmp_path / "page").exists()


def test_another_export_is_refused(export: Path, package: Path, tmp_path: Path) -> None:
    record = json.loads((export / "export.json").read_text())
    for change in ({"output": "logits"}, {"size": [64, 96]}, {"image_dtype": "float32"}, {"format": "openvino"}):
        (tmp_path / "export.json").write_text(json.dumps({**record, **change}))
        with pytest.raises(ValueError, match=next(iter(change))):
            write_static_demo(tmp_path, tmp_path / "page", package)


def test_a_page_is_written_wholly_or_not_at_all(export, package, tmp_path, monkeypatch):
    """So that the same command can be given again when there is room."""
    copy = shutil.copyfile

    def until_the_disk_is_full(source: Path, target: Path) -> None:
        if Path(source).suffix == ".wasm":
            raise OSError(28, "No space left on device")
        copy(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile", until_the_disk_is_full)
        with pytest.raises(OSError, match="No space left"):
            write_static_demo(export, tmp_path / "page", package)
    assert not [path for path in tmp_path.iterdir() if "page" in path.name]
    assert "index.html" in write_static_demo(export, tmp_path / "page", package)


def test_a_package_of_other_files_is_told(export: Path, package: Path, npm, tmp_path: Path) -> None:
    (package / "dist" / FILES[-1]).rename(package / "dist" / "renamed.mjs")
    npm()
    with pytest.raises(OSError, match=f"has no dist/{FILES[-1]}.*--onnxruntime-web"):
        write_static_demo(export, tmp_path / "page")


def test_without_npm_it_says_what_to_do(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="--onnxruntime-web"):
        write_static_demo(export, tmp_path / "page")


def test_the_engine_is_taken_from_npm(export: Path, npm, tmp_path: Path) -> None:
    npm("echo no network >&2; exit 1")
    with pytest.raises(OSError, match="no network.*--onnxruntime-web"):
        write_static_demo(export, tmp_path / "page")
    assert not (tmp_path / "page").exists()
    npm()
    write_static_demo(export, tmp_path / "page")
    for name in FILES[-2:]:
        assert (tmp_path / "page" / name).read_bytes() == name.encode()


def test_a_webcam_that_fails_leaves_a_page_that_works_and_no_camera_on() -> None:
    """On stand-ins for the browser: what goes wrong with a camera cannot be had of a real one."""
    if shutil.which("node") is None:
        pytest.skip("Node.js is not installed")
    seen = node("webcam.mjs", str(Path(static_demo.__file__).with_name("browser_page") / "app.js"))
    assert seen["failures"] == [] and seen["button"] == "Webcam" and "no image" in seen["failed"]
    assert [seen[f"liveAfter{what}"] for what in ("Failure", "Stop", "Photo")] == [0, 0, 0]
    assert seen["liveInPlace"] == 0
    assert all(re.fullmatch(r"97x65: \d+ ms", seen[name]) for name in ("photo", "inPlace")), seen
