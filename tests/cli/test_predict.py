import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toy import write_clip

from kaseg.checkpoints import DEFAULT_MODEL


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, size in (("a", (65, 47)), ("b", (40, 64))):
        pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def test_masks_and_overlays(kaseg: Any, trained: tuple[Path, str], images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = kaseg.succeed("predict", images, "--model", trained[0], "--output", output, "--device", "cpu")
    assert f"2 of 2 images segmented: {output}" in result.output
    names = ["a_mask.png", "a_overlay.jpg", "b_mask.png", "b_overlay.jpg"]
    assert sorted(path.name for path in output.iterdir()) == names
    mask = np.array(Image.open(output / "a_mask.png"))
    assert mask.shape == (47, 65)
    assert mask.max() < 9


def test_options(kaseg: Any, trained: tuple[Path, str], images: Path, tmp_path: Path) -> None:
    output = tmp_path / "masks"
    command = ("predict", images / "a.png", images, "--model", trained[0], "--output", output)
    kaseg.succeed(*command, "--no-overlay", "--batch-size", 2)
    assert sorted(path.name for path in output.iterdir()) == ["a_mask.png", "b_mask.png"]


def test_unreadable_images(kaseg: Any, trained: tuple[Path, str], images: Path, tmp_path: Path) -> None:
    (images / "a.png").write_bytes(b"no image")
    command = ("predict", images, "--model", trained[0], "--output", tmp_path / "out")
    assert str(images / "a.png") in kaseg.fail(*command)
    assert "1 of 2 images segmented" in kaseg.succeed(*command, "--on-error", "skip").output
    (images / "b.png").unlink()
    assert kaseg(*command, "--on-error", "skip").exit_code == 1


def test_mistakes(kaseg: Any, trained: tuple[Path, str], tmp_path: Path) -> None:
    assert "nowhere.png: no such file or folder" in kaseg.fail(
        "predict", tmp_path / "nowhere.png", "--model", trained[0], "--output", tmp_path
    )
    assert kaseg("predict", "x.png").exit_code == 2  # nowhere to write to
    command = ("predict", tmp_path, "--model", trained[0], "--output", tmp_path / "out")
    assert "--max-frames would change nothing" in kaseg.fail(*command, "--max-frames", 3)
    assert "--alpha would change nothing" in kaseg.fail(*command, "--alpha", 0.3, "--no-overlay")


def test_videos(kaseg: Any, trained: tuple[Path, str], images: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "drive.mp4", [np.full((48, 64, 3), 80 * index, np.uint8) for index in range(3)])
    output = tmp_path / "out"
    command = ("predict", tmp_path / "drive.mp4", images / "a.png", "--model", trained[0], "--output", output)
    result = kaseg.succeed(*command, "--max-frames", 2)
    assert f"2 frames of {tmp_path / 'drive.mp4'} segmented: {output}" in result.output
    names = ["a_mask.png", "a_overlay.jpg", "drive_mask.mkv", "drive_overlay.mp4"]
    assert sorted(path.name for path in output.iterdir()) == names
    assert "gone.mp4: no such file" in kaseg.fail(*command[:-1], tmp_path / "nothing", "gone.mp4")
    assert not (tmp_path / "nothing").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "av", None)
        assert "PyAV: pip install av" in kaseg.fail(*command[:-1], tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    assert "two videos would have one name" in kaseg.fail(*command, tmp_path / "DRIVE.mkv")


def test_images_above_the_limit_are_refused(kaseg, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # put back after the test
    Image.new("RGB", (1100, 1000)).save(tmp_path / "large.png")
    command = ("predict", tmp_path / "large.png", "--model", trained[0], "--output", tmp_path / "out")
    output = kaseg.fail(*command, "--max-megapixels", 1)
    assert "large.png" in output and "exceeds limit" in output
    kaseg.succeed(*command, "--max-megapixels", 2)


def test_without_a_model_the_default_student_is_used(kaseg, images, tmp_path) -> None:
    kaseg.succeed("predict", images / "a.png", "--output", tmp_path / "default", "--device", "cpu")
    kaseg.succeed("predict", images / "a.png", "--output", tmp_path / "named", "--model", DEFAULT_MODEL)
    masks = [(tmp_path / folder / "a_mask.png").read_bytes() for folder in ("default", "named")]
    assert masks[0] == masks[1]
