import warnings
from pathlib import Path

import datasets
import numpy as np
import official_layouts as official
import pytest
from PIL import Image

from kaseg.data.bad_samples import BadSamples, SkippedSample
from kaseg.data.label_spaces import LabelSpace
from kaseg.data.loading import load_segmentation_dataset

TWO = LabelSpace("two", ("thing", "stuff"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Seven pairs of which only "a" and "z" are good."""
    root = tmp_path / "data"
    for name in "abcdefz":
        official.write_picture(root / f"images/{name}.jpg")
        official.write_mask(root / f"masks/{name}.png", [0, 1])
    truncated = (root / "images/b.jpg").read_bytes()
    (root / "images/b.jpg").write_bytes(truncated[: len(truncated) - 40])
    Image.new("L", (9, 9)).save(root / "masks/c.png")
    (root / "masks/d.png").unlink()
    official.write_mask(root / "masks/e.png", [0, 2])
    Image.new("RGB", official.SIZE[::-1]).save(root / "masks/f.png")
    return root


REASONS = {
    "b": r"images/b\.jpg cannot be read: .*truncated",
    "c": r"\(.*images/c\.jpg, .*masks/c\.png\): the image is 8x6 and its label mask 9x9",
    "d": r"masks: no mask .* for d\.jpg",
    "e": r"masks/e\.png holds 2 \(24 pixels\)",
    "f": r"masks/f\.png has mode 'RGB'",
}


def _check(skipped: list[SkippedSample]) -> None:
    assert sorted(sample.id for sample in skipped) == sorted(REASONS)
    for sample in skipped:
        with pytest.raises(ValueError, match=REASONS[sample.id]):
            raise ValueError(sample.reason)


@pytest.mark.parametrize("num_proc", [None, 2])
def test_skipping_leaves_the_good_ones(folder, num_proc):
    skipped: list[SkippedSample] = []
    with pytest.warns(UserWarning) as caught:
        data = load_segmentation_dataset(
            folder, split="train", label_space=TWO, on_error="skip", skipped=skipped, num_proc=num_proc
        )
    assert [sample["id"] for sample in data] == ["a", "z"]
    _check(skipped)
    (warning,) = [str(each.message) for each in caught if each.category is UserWarning]
    assert "split train: 5 of 7 samples were skipped" in warning
    for sample in skipped:
        assert f"  {sample.id}: {sample.reason}" in warning


def test_skipping_in_a_stream(folder):
    skipped: list[SkippedSample] = []
    data = load_segmentation_dataset(
        folder, split="train", label_space=TWO, on_error="skip", skipped=skipped, streaming=True
    )
    assert [sample.id for sample in skipped] == ["d"], "what the folder shows without reading"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        iterator = iter(data)
        assert next(iterator)["id"] == "a"
    for _ in range(2):  # the second epoch reports nothing twice
        assert [sample["id"] for sample in data] == ["a", "z"]
    _check(skipped)


def test_a_stream_warns_about_missing_files_and_about_the_first(folder):
    with pytest.warns(UserWarning, match=r"split train: 1 of 7 samples were skipped:\n  d: "):
        data = load_segmentation_dataset(folder, split="train", label_space=TWO, on_error="skip", streaming=True)
    with pytest.warns(UserWarning, match=r"split train: a sample was skipped\. Sample b: .*skipped=a_list") as caught:
        list(data)
    assert len([each for each in caught if each.category is UserWarning]) == 1
    for name in "abcefz":
        (folder / f"masks/{name}.png").unlink()
    with pytest.raises(ValueError, match="7 of 7 samples were skipped, so none remains"):
        load_segmentation_dataset(folder, split="train", label_space=TWO, on_error="skip", streaming=True)


def test_files_that_change_are_tried_again(folder):
    options = {"split": "train", "label_space": TWO}
    with pytest.warns(UserWarning, match="5 of 7"):
        load_segmentation_dataset(folder, on_error="skip", **options)
    official.write_mask(folder / "masks/e.png", [0])
    with pytest.warns(UserWarning, match="4 of 7"):
        assert len(load_segmentation_dataset(folder, on_error="skip", **options)) == 3
    with pytest.raises(ValueError, match="on_error is 'ignore'; it must be one of raise, skip"):
        load_segmentation_dataset(folder, on_error="ignore", **options)


def test_empty_lists(tmp_path):
    official.write_voc(tmp_path)
    (tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt").write_text("\n")
    for streaming in (False, True):
        with pytest.raises(ValueError, match="voc2012, split train: the split is empty"):
            load_segmentation_dataset("voc2012", data_dir=tmp_path, split="train", streaming=streaming)


def test_doubled_lines_of_a_list(tmp_path):
    official.write_voc(tmp_path)
    lists = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation"
    official.write_list(lists / "train.txt", ["2007_000032", "2007_000039", "2007_000032"])
    with pytest.raises(ValueError, match=r"train\.txt lists sample 2007_000032 more than once"):
        load_segmentation_dataset("voc2012", data_dir=tmp_path, split="train")
    with pytest.warns(UserWarning, match="1 of 3 samples were skipped"):
        data = load_segmentation_dataset("voc2012", data_dir=tmp_path, split="train", on_error="skip")
    assert [sample["id"] for sample in data] == ["2007_000032", "2007_000039"]


def test_doubled_ids_of_columns(tmp_path):
    image, mask = tmp_path / "p.png", tmp_path / "m.png"
    official.write_picture(image)
    official.write_mask(mask, [0, 1])
    encoded = [{"bytes": path.read_bytes(), "path": None} for path in (image, mask)]
    rows = {"image": [encoded[0]] * 3, "label": [encoded[1]] * 3, "id": ["x", "y", "x"]}
    features = datasets.Features(image=datasets.Image(), label=datasets.Image(), id=datasets.Value("string"))
    (tmp_path / "hub").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "hub/train.parquet")
    with pytest.raises(ValueError, match="split train: the id 'x' is there more than once"):
        load_segmentation_dataset(tmp_path / "hub", split="train", label_space=TWO)
    with pytest.warns(UserWarning, match="1 of 3 samples were skipped"):
        data = load_segmentation_dataset(tmp_path / "hub", split="train", label_space=TWO, on_error="skip")
    assert [sample["id"] for sample in data] == ["x", "y"]
    np.testing.assert_array_equal(np.asarray(data[1]["label"]), np.resize([0, 1], official.SIZE))


def test_many_bad_samples_are_counted():
    samples = [SkippedSample(str(index), f"number {index} is bad.") for index in range(7)]
    with pytest.raises(OSError, match=r"^number 0 is bad\. 7 samples are like this: 0, 1, 2, 3, 4, \.\.\.$"):
        BadSamples("here").reject(samples, OSError)
    with pytest.raises(ValueError, match=r"^number 0 is bad\.$"):
        BadSamples("here").reject(samples[:1])
    BadSamples("here").reject([])


def test_good_data_are_not_warned_about(tmp_path):
    official.write_ade20k(tmp_path)
    skipped: list[SkippedSample] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        data = load_segmentation_dataset(
            "ade20k", data_dir=tmp_path, split="train", on_error="skip", skipped=skipped, streaming=False
        )
    assert len(data) == 1 and skipped == []
