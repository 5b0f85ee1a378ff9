from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def test_masks_of_every_image(kaseg: Any, trained: tuple[Path, str], tmp_path: Path) -> None:
    folder = tmp_path / "new"
    windows = ("--protocol", "slide", "--crop-size", "128")
    output = kaseg.succeed(
        "submit", trained[0], "--dataset", "scenes", "--max-samples", 2, "--output", folder, *windows
    ).output
    assert f"2 masks: {folder}" in output
    masks = {path.name: np.array(Image.open(path)) for path in folder.iterdir()}
    assert sorted(masks) == ["test-000000.png", "test-000001.png"]
    assert all(mask.shape == (192, 256) and mask.max() < 9 for mask in masks.values())


def test_mistakes(kaseg: Any, trained: tuple[Path, str], tmp_path: Path) -> None:
    where = ("--dataset", "voc2012", "--data-dir", tmp_path, "--output", tmp_path / "out")
    kaseg.fail("submit", trained[0], *where)
    assert not (tmp_path / "out").exists()
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    scenes = ("--dataset", "scenes", "--label-space", tmp_path / "classes.txt", "--output", tmp_path / "out")
    assert "Dataset (2): cat, dog" in kaseg.fail("submit", trained[0], *scenes)
