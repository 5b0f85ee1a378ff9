from pathlib import Path

import pytest

from kaseg.data.bad_samples import BadSamples
from kaseg.data.layouts import NamedFiles, PairedFolders, ParquetFiles, whats_there

STRICT = BadSamples("test")
LISTED = NamedFiles(
    image=("{voc}/JPEGImages/{id}.jpg", "{voc}/more/{id}.jpg"),
    label=("{voc}/SegmentationClass/{id}.png",),
    ids=("{voc}/{split}.txt",),
    split_names={"train": "train", "validation": "val", "test": "test"},
    folders={"voc": (".", "VOC2012")},
    unlabelled=("test",),
)
FOUND = NamedFiles(
    image=("left/{split}/{id}_left.png",),
    label=("gt/{split}/{id}_labels.png",),
    split_names={"train": "train", "validation": "val"},
)
FOLDERS = PairedFolders()


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_parquet_files(tmp_path):
    layout = ParquetFiles()
    assert layout.splits(tmp_path) == []
    _touch(tmp_path, "train.parquet", "test.parquet", "other.parquet")
    assert layout.splits(tmp_path) == ["train", "test"]
    assert layout.file(tmp_path, "test") == tmp_path / "test.parquet"
    assert layout.expects("test") == "test.parquet"


@pytest.mark.parametrize("below", [".", "VOC2012"])
def test_listed_files(tmp_path, below):
    assert LISTED.splits(tmp_path) == []
    with pytest.raises(FileNotFoundError, match=r"no \{voc\}/val\.txt and .*\{voc\} being \. or VOC2012"):
        LISTED.files(tmp_path, "validation", STRICT)
    root = tmp_path / below
    _touch(root, "val.txt", "JPEGImages/b.jpg", "more/c.jpg", "SegmentationClass/b.png", "SegmentationClass/c.png")
    (root / "val.txt").write_text("b\n\nc 1\n")
    assert LISTED.splits(tmp_path) == ["validation"]
    first, second = LISTED.files(tmp_path, "validation", STRICT)
    assert (first.id, second.id) == ("b", "c"), "the first word of each line"
    assert first.image.samefile(root / "JPEGImages/b.jpg") and first.label.samefile(root / "SegmentationClass/b.png")
    assert second.image.samefile(root / "more/c.jpg")
    (root / "val.txt").write_text("b\nd\n")
    with pytest.raises(
        FileNotFoundError, match=r"JPEGImages/d\.jpg or .*more/d\.jpg: no such file, but .*val\.txt lists"
    ):
        LISTED.files(tmp_path, "validation", STRICT)


def test_splits_without_masks(tmp_path):
    _touch(tmp_path, "train.txt", "test.txt", "JPEGImages/b.jpg")
    (tmp_path / "test.txt").write_text("b\n")
    assert LISTED.splits(tmp_path) == ["test"], "train has to have masks"
    (sample,) = LISTED.files(tmp_path, "test", STRICT)
    assert sample.id == "b" and sample.label is None


def test_listed_twice_in_a_folder_with_braces(tmp_path):
    root = tmp_path / "data{1}"
    _touch(root, "val.txt", "JPEGImages/b.jpg", "SegmentationClass/b.png")
    (root / "val.txt").write_text("b\nb\n")
    with pytest.raises(ValueError, match=r"data\{1\}/val\.txt lists sample b more than once"):
        LISTED.files(root, "validation", STRICT)


def test_files_found_by_their_names(tmp_path):
    _touch(
        tmp_path, "left/train/b/2_left.png", "left/train/a/1_left.png", "left/train/a/.9_left.png", "left/train/x.png"
    )
    assert FOUND.splits(tmp_path) == []
    _touch(tmp_path, "gt/train/a/1_instances.png")
    assert FOUND.splits(tmp_path) == [], "instances are no labels"
    _touch(tmp_path, "gt/train/a/1_labels.png", "gt/train/b/2_labels.png", "gt/train/b/2_instances.png")
    assert FOUND.splits(tmp_path) == ["train"]
    samples = FOUND.files(tmp_path, "train", STRICT)
    assert [sample.id for sample in samples] == ["a/1", "b/2"]
    assert samples[1].label.samefile(tmp_path / "gt/train/b/2_labels.png")
    (tmp_path / "gt/train/b/2_labels.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"gt/train/b/2_labels\.png: no such file"):
        FOUND.files(tmp_path, "train", STRICT)
    bad = BadSamples("test", skip=True)
    assert [sample.id for sample in FOUND.files(tmp_path, "train", bad)] == ["a/1"]
    assert [sample.id for sample in bad.skipped] == ["b/2"]


def test_folders_with_and_without_splits(tmp_path):
    _touch(tmp_path, "images/a.JPG", "masks/a.png", "images/.hidden.jpg", "images/b.txt")
    assert FOLDERS.splits(tmp_path) == ["train"]
    (sample,) = FOLDERS.files(tmp_path, "train", STRICT)
    assert (sample.id, sample.image.name, sample.label.name) == ("a", "a.JPG", "a.png")

    _touch(tmp_path, "val/images/z.png", "val/masks/z.png", "val/images/c.png", "val/masks/c.png", "test/images/d.png")
    assert FOLDERS.splits(tmp_path) == ["train", "validation"], "test/ has no masks/"
    assert [sample.id for sample in FOLDERS.files(tmp_path, "validation", STRICT)] == ["c", "z"]
    with pytest.raises(FileNotFoundError, match="no test/images/ and test/masks/"):
        FOLDERS.files(tmp_path, "test", STRICT)


def test_other_folder_names(tmp_path):
    layout = PairedFolders("images/{split}", "annotations/{split}", {"train": ("training",)}, roots=("none", "below"))
    _touch(tmp_path, "below/images/training/a.png", "below/annotations/training/a.png")
    assert layout.splits(tmp_path) == ["train"]
    assert [sample.id for sample in layout.files(tmp_path, "train", STRICT)] == ["a"]


def test_files_without_partner(tmp_path):
    (tmp_path / "images").mkdir()
    _touch(tmp_path, "masks/a.png")
    with pytest.raises(FileNotFoundError, match="images: no images"):
        FOLDERS.files(tmp_path, "train", STRICT)
    _touch(tmp_path, *(f"images/{stem}.png" for stem in "abcdefgh"), "masks/b.jpg")
    message = r"masks: no mask .*JPEG would change.* for b\.png\. .* 7 samples are like this: b, c, d, e, f, \.\.\."
    with pytest.raises(FileNotFoundError, match=message):
        FOLDERS.files(tmp_path, "train", STRICT)
    bad = BadSamples("test", skip=True)
    assert [sample.id for sample in FOLDERS.files(tmp_path, "train", bad)] == ["a"]
    assert [sample.id for sample in bad.skipped] == [*"bcdefgh"]
    _touch(tmp_path, *(f"masks/{stem}.png" for stem in "abcdefghi"))
    with pytest.raises(FileNotFoundError, match=r"images: no image for i\.png"):
        FOLDERS.files(tmp_path, "train", STRICT)
    _touch(tmp_path, "images/i.png", "images/a.jpg")
    with pytest.raises(ValueError, match=r"a\.png and a\.jpg have the same stem"):
        FOLDERS.files(tmp_path, "train", STRICT)


@pytest.mark.parametrize("kinds", [["images"], ["masks"], ["images", "masks"]])
def test_files_in_subfolders_are_not_left_out_in_silence(kinds, tmp_path):
    _touch(tmp_path, "images/a.png", "masks/a.png", *(f"{kind}/.hidden/b.png" for kind in kinds))
    _touch(tmp_path, *(f"{kind}/no_images/c.txt" for kind in kinds))
    assert [sample.id for sample in FOLDERS.files(tmp_path, "train", STRICT)] == ["a"]
    _touch(tmp_path, *(f"{kind}/berlin/{stem}.PNG" for kind in kinds for stem in "bc"))
    message = rf"{kinds[0]}: berlin/b\.PNG is in a subfolder.* 2 samples are like this: berlin/b\.PNG, berlin/c\.PNG"
    with pytest.raises(ValueError, match=message):
        FOLDERS.files(tmp_path, "train", STRICT)
    bad = BadSamples("test", skip=True)
    assert [sample.id for sample in FOLDERS.files(tmp_path, "train", bad)] == ["a"]
    assert [sample.id for sample in bad.skipped] == ["berlin/b.PNG", "berlin/c.PNG"] * len(kinds)


def test_whats_there(tmp_path):
    assert whats_there(tmp_path) == "nothing"
    _touch(tmp_path, "b.txt", "a/x", *(f"z{index:02}" for index in range(10)))
    assert whats_there(tmp_path) == "a/, b.txt, z00, z01, z02, z03, z04, z05, z06, z07 and 2 more"
