import codecs
from pathlib import Path

import pytest
from PIL import Image

from kaseg.data import load_segmentation_dataset, read_label_space
from kaseg.data.text_files import read_text

NAMES = "Straße\nnaïve 道路\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_encodings_that_say_what_they_are(tmp_path, encoding: str) -> None:
    start = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""
    (tmp_path / "classes.txt").write_bytes(start + NAMES.encode(encoding))
    assert read_text(tmp_path / "classes.txt") == NAMES
    assert read_label_space(tmp_path / "classes.txt").names == ("Straße", "naïve 道路")


@pytest.mark.parametrize(
    "content, said",
    [
        ("sky\nStraße\n".encode("latin-1"), "line 2 is not in UTF-8"),
        (NAMES.encode("cp1252", "replace"), "line 1 is not in UTF-8"),
        ("sky\n".encode("utf-16-le"), "null characters"),
        (codecs.BOM_UTF16_LE + b"a", "not in UTF-8"),
    ],
)
def test_others_are_named(tmp_path, content: bytes, said: str) -> None:
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(ValueError, match=f"classes.txt: .*{said}.*Save the file in UTF-8"):
        read_label_space(tmp_path / "classes.txt")


def _voc(root: Path, name: str, listed: bytes) -> Path:
    """VOC2012 of one image, and its list."""
    root = root / "VOC2012"
    for folder, mode, suffix in (("JPEGImages", "RGB", "jpg"), ("SegmentationClass", "L", "png")):
        (root / folder).mkdir(parents=True)
        Image.new(mode, (8, 8)).save(root / folder / f"{name}.{suffix}")
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_bytes(listed)
    return root


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("2007_000001", "{id}"),
        ("my frame a", "{id}"),  # ids may hold spaces, where a line holds nothing else
        ("frame b", "{id}"),
        ("2007_000001", "{id} -1"),
        ("2007_000001", "{id}  1"),
        ("2007_000001", "JPEGImages/{id}.jpg SegmentationClass/{id}.png"),
        ("2007_000001", "/JPEGImages/{id}.jpg"),
    ],
)
def test_ids_in_lists(tmp_path, name: str, line: str) -> None:
    root = _voc(tmp_path, name, line.format(id=name).encode() + b"\n")
    assert load_segmentation_dataset("voc2012", split="train", data_dir=root)[0]["id"] == name


def test_a_list_in_another_encoding_is_named(tmp_path) -> None:
    root = _voc(tmp_path, "a", "Straße\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"train.txt: line 1 is not in UTF-8"):
        load_segmentation_dataset("voc2012", split="train", data_dir=root)
