from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kaseg.data import load_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("more", ".thumbnails"):
        (tmp_path / name).mkdir()
    for value, name in enumerate(("b.png", "a.JPG", "more/c.jpeg", ".hidden.png", ".thumbnails/b.png")):
        Image.fromarray(np.full((4, 6), 50 * value, dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_every_image_below_the_folder_in_order(folder: Path) -> None:
    data = load_images(folder)
    assert [sample["id"] for sample in data] == ["a.JPG", "b.png", "more/c.jpeg"]
    assert all(sample["image"].mode == "RGB" and sample["image"].size == (6, 4) for sample in data)
    assert [round(np.asarray(sample["image"]).mean(), -1) for sample in data] == [50, 0, 100]


def test_what_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "b.png").write_bytes(b"no image")
    (folder / "more/empty").mkdir()
    data = load_images(folder)
    assert data[0]["id"] == "a.JPG"
    with pytest.raises(ValueError, match="b.png"):
        data[1]
    for name, message in (("absent", "absent: no such folder"), ("more/empty", "no images in this")):
        with pytest.raises(FileNotFoundError, match=message):
            load_images(folder / name)
