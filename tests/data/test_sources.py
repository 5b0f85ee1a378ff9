from __future__ import annotations

from pathlib import Path

import pytest

from kaseg.data.sources import FOLDER_LAYOUT, SPECS, ListedFiles, PairedFolders, ParquetFiles


def _touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_specs_are_complete():
    assert set(SPECS) == {"camvid", "voc2012", "scenes"}
    for name, spec in SPECS.items():
        assert spec.name == name == spec.label_space.name
        assert spec.licence and spec.citation
    assert SPECS["camvid"].licence == "CC-BY-NC-4.0"


def test_parquet_files(tmp_path):
    layout = ParquetFiles()
    assert layout.splits(tmp_path) == []
    _touch(tmp_path / "train.parquet", tmp_path / "test.parquet", tmp_path / "other.parquet")
    assert layout.splits(tmp_path) == ["train", "test"]
    assert layout.file(tmp_path, "test") == tmp_path / "test.parquet"


@pytest.mark.parametrize("below", [".", "VOC2012", "VOCdevkit/VOC2012"])
def test_listed_files(tmp_path, below):
    layout = SPECS["voc2012"].layout
    assert isinstance(layout, ListedFiles)
    assert layout.splits(tmp_path) == []
    with pytest.raises(FileNotFoundError, match=r"no ImageSets/Segmentation/val\.txt"):
        layout.files(tmp_path, "validation")
    root = tmp_path / below
    _touch(root / "ImageSets/Segmentation/val.txt", root / "JPEGImages/b.jpg", root / "SegmentationClass/b.png")
    (root / "ImageSets/Segmentation/val.txt").write_text("b\n\n")
    assert layout.splits(tmp_path) == ["validation"]
    (sample,) = layout.files(tmp_path, "validation")
    assert sample.id == "b"
    assert sample.image.samefile(root / "JPEGImages/b.jpg") and sample.label.samefile(root / "SegmentationClass/b.png")
    (root / "ImageSets/Segmentation/val.txt").write_text("b\nc\n")
    with pytest.raises(FileNotFoundError, match=r"c\.jpg: no such file, but .*val\.txt lists sample c"):
        layout.files(tmp_path, "validation")


def test_folders_with_and_without_splits(tmp_path):
    _touch(
        tmp_path / "images/a.JPG", tmp_path / "masks/a.png", tmp_path / "images/.hidden.jpg", tmp_path / "images/b.txt"
    )
    assert FOLDER_LAYOUT.splits(tmp_path) == ["train"]
    (sample,) = FOLDER_LAYOUT.files(tmp_path, "train")
    assert (sample.id, sample.image.name, sample.label.name) == ("a", "a.JPG", "a.png")

    _touch(tmp_path / "val/images/z.png", tmp_path / "val/masks/z.png", tmp_path / "val/images/c.png")
    _touch(tmp_path / "val/masks/c.png", tmp_path / "test/images/d.png")
    assert FOLDER_LAYOUT.splits(tmp_path) == ["train", "validation"], "test/ has no masks/"
    assert [sample.id for sample in FOLDER_LAYOUT.files(tmp_path, "validation")] == ["c", "z"]
    with pytest.raises(FileNotFoundError, match="no folder test/images"):
        FOLDER_LAYOUT.files(tmp_path, "test")


def test_other_folder_names():
    layout = PairedFolders("images/{split}", "annotations/{split}", {"train": ("training",)})
    assert layout.splits(Path("/nowhere")) == []


def test_files_without_partner(tmp_path):
    (tmp_path / "images").mkdir()
    _touch(tmp_path / "masks/a.png")
    with pytest.raises(FileNotFoundError, match="images: no pictures"):
        FOLDER_LAYOUT.files(tmp_path, "train")
    _touch(*(tmp_path / f"images/{stem}.png" for stem in "abcdefgh"), tmp_path / "masks/b.jpg")
    with pytest.raises(FileNotFoundError, match=r"masks: no file for b, c, d, e, f \(7 missing\)\. .*JPEG"):
        FOLDER_LAYOUT.files(tmp_path, "train")
    _touch(*(tmp_path / f"masks/{stem}.png" for stem in "abcdefghi"))
    with pytest.raises(FileNotFoundError, match=r"images: no file for i \(1 missing\)"):
        FOLDER_LAYOUT.files(tmp_path, "train")
    _touch(tmp_path / "images/i.png", tmp_path / "images/a.jpg")
    with pytest.raises(ValueError, match=r"a\.png and a\.jpg have the same stem"):
        FOLDER_LAYOUT.files(tmp_path, "train")
