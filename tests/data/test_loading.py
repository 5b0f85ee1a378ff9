import io
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from toy import write_folder

from kaseg.data.label_spaces import LabelSpace, palette_for
from kaseg.data.loading import get_label_space, load_segmentation_dataset
from kaseg.data.sources import PASCAL_VOC, SPECS

TWO = LabelSpace("two", ("thing", "stuff"))


def _pictures(count: int, highest: int = 1, size: tuple[int, int] = (6, 8)) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        (rng.integers(0, 256, (*size, 3)).astype(np.uint8), rng.integers(0, highest + 1, size).astype(np.uint8))
        for _ in range(count)
    ]


def _bytes(pixels: np.ndarray, **options) -> dict:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, **{"format": "PNG", **options})
    return {"bytes": stream.getvalue(), "path": None}


def _write_parquet(path: Path, pairs: list, names: tuple[str, str] = ("image", "label"), ids: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {names[0]: [_bytes(image) for image, _ in pairs], names[1]: [_bytes(label) for _, label in pairs]}
    features = {names[0]: datasets.Image(), names[1]: datasets.Image()}
    if ids:
        rows["id"], features["id"] = [f"frame{index}" for index in range(len(pairs))], datasets.Value("string")
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(path)


def _check(sample: dict, image: np.ndarray, label: np.ndarray) -> None:
    assert sample["image"].mode == "RGB" and sample["label"].mode == "L"
    np.testing.assert_array_equal(np.asarray(sample["image"]), image)
    np.testing.assert_array_equal(np.asarray(sample["label"]), label)


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_round_trip(tmp_path, streaming):
    pairs = _pictures(3, highest=11)
    _write_parquet(tmp_path / "train.parquet", pairs)
    _write_parquet(tmp_path / "validation.parquet", pairs[:1])
    data = load_segmentation_dataset("camvid", data_dir=tmp_path, streaming=streaming)
    assert list(data) == ["train", "validation"]
    samples = list(data["train"])
    assert [sample["id"] for sample in samples] == ["frame0", "frame1", "frame2"]
    for sample, (image, label) in zip(samples, pairs, strict=True):
        _check(sample, image, np.where(label == 11, 255, label))
    for split in ("val", "validation"):
        assert len(list(load_segmentation_dataset("camvid", data_dir=tmp_path, split=split, streaming=streaming))) == 1
    with pytest.raises(FileNotFoundError, match="no split 'test'; it has train, validation"):
        load_segmentation_dataset("camvid", data_dir=tmp_path, split="test", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("names, folder", [(("image", "label"), "."), (("img", "annotation"), "data")])
def test_hub_style_columns_whose_jpeg_bytes_are_decoded_once(tmp_path, streaming, names, folder):
    """Streams decode images between steps and encode them again unless they are told not to: JPEGs would decay."""
    (image, label), (_, second) = _pictures(2, size=(32, 40))
    rows = {names[0]: [_bytes(image, format="JPEG", quality=60)] * 2, names[1]: [_bytes(label), _bytes(second)]}
    expected = np.asarray(Image.open(io.BytesIO(rows[names[0]][0]["bytes"])))
    (tmp_path / "hub" / folder).mkdir(parents=True)
    _rows(rows).to_parquet(tmp_path / "hub" / folder / "train.parquet")
    samples = list(load_segmentation_dataset(tmp_path / "hub", split="train", label_space=TWO, streaming=streaming))
    for index, (sample, mask) in enumerate(zip(samples, (label, second), strict=True)):
        assert set(sample) == {"image", "label", "id"} and sample["id"] == f"train-{index:06d}"
        _check(sample, expected, mask)


def test_cells_that_hold_no_mask(tmp_path):
    (image, _), *_ = _pictures(1)
    for label, feature, message in (
        (None, datasets.Image(), "Sample x: column 'label' is empty"),
        (1, datasets.ClassLabel(names=["cat", "dog"]), "column 'label' holds ClassLabel"),
    ):
        hub = tmp_path / type(feature).__name__
        hub.mkdir()
        features = datasets.Features(image=datasets.Image(), id=datasets.Value("string"), label=feature)
        rows = {"image": [_bytes(image)], "label": [label], "id": ["x"]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(hub / "train.parquet")
        with pytest.raises(ValueError, match=message):
            load_segmentation_dataset(hub, split="train", label_space=TWO)[0]


def test_column_errors(tmp_path):
    hub = tmp_path / "hub"
    _write_parquet(hub / "train.parquet", _pictures(1), names=("photo", "ground_truth"))
    options = {"split": "train", "label_space": TWO}
    with pytest.raises(ValueError, match=r"no image column .* among \['photo', 'ground_truth', 'id'\].*image_column="):
        load_segmentation_dataset(hub, **options)
    with pytest.raises(ValueError, match=r"no column 'picture'; its columns are \['photo'"):
        load_segmentation_dataset(hub, image_column="picture", **options)
    columns = {"image_column": "photo", "label_column": "ground_truth"}
    _check(load_segmentation_dataset(hub, **columns, **options)[0], *_pictures(1)[0])
    # A column of strings is a column of paths.
    paths = load_segmentation_dataset(hub, image_column="id", label_column="ground_truth", **options)
    with pytest.raises(FileNotFoundError, match="Sample train-000000: the image frame0 does not exist"):
        paths[0]
    with pytest.raises(FileNotFoundError, match="has no split 'test'; it has train"):
        load_segmentation_dataset(hub, split="test", label_space=TWO)
    with pytest.raises(ValueError, match="classes of .*hub' are not known"):
        load_segmentation_dataset(hub, split="train")


@pytest.mark.parametrize("streaming", [False, True])
def test_folder(tmp_path, streaming):
    pairs = _pictures(3)
    write_folder(tmp_path / "train", pairs, name="p{}")
    write_folder(tmp_path / "val", pairs[:1], name="p{}")
    (tmp_path / "classes.txt").write_text("thing\nstuff\n")
    data = load_segmentation_dataset(tmp_path, streaming=streaming)
    assert list(data) == ["train", "validation"]
    for index, (sample, pair) in enumerate(zip(data["train"], pairs, strict=True)):
        _check(sample, *pair)
        assert sample["id"] == f"p{index}"
    assert get_label_space(tmp_path).names == get_label_space("folder", tmp_path).names == ("thing", "stuff")


def test_flat_folder(tmp_path):
    pairs = _pictures(2)
    write_folder(tmp_path / "mine", pairs, name="p{}")
    with pytest.raises(ValueError, match=r"mine' are not known\. Pass label_space=.*classes\.txt"):
        load_segmentation_dataset(tmp_path / "mine", split="train")
    for space in (TWO, tmp_path / "names.txt"):
        (tmp_path / "names.txt").write_text("a\nb")
        data = load_segmentation_dataset("folder", data_dir=tmp_path / "mine", split="train", label_space=space)
        assert len(data) == 2
        _check(data[1], *pairs[1])
    with pytest.raises(FileNotFoundError, match="no split 'validation'; it has train"):
        load_segmentation_dataset(tmp_path / "mine", split="val", label_space=TWO)


def test_folders_that_are_not_there(tmp_path):
    for name, data_dir in (("camvid", tmp_path / "gone"), ("folder", tmp_path / "gone"), (tmp_path / "gone", None)):
        with pytest.raises(FileNotFoundError, match="gone: no such folder"):
            load_segmentation_dataset(name, data_dir=data_dir)
    for name in ("camvid", "folder"):
        with pytest.raises(ValueError, match=f"'{name}'.* needs data_dir="):
            load_segmentation_dataset(name)
    with pytest.raises(FileNotFoundError, match="no split of 'folder' is there"):
        load_segmentation_dataset("folder", data_dir=tmp_path)


def test_own_folders_of_another_form(tmp_path):
    """What was looked for and what is there is said, whatever `datasets` makes of the folder."""
    root = tmp_path / "mine"
    root.mkdir()
    with pytest.raises(ValueError, match=rf"classes of .* are not known.* In {root} there is: nothing"):
        load_segmentation_dataset(root, split="train")
    (root / "classes.txt").write_text("ground\n")
    there = rf" Looked for train/images/ and train/masks/ or .*\. In {root} there is: classes\.txt"
    with pytest.raises((ValueError, FileNotFoundError), match=there):
        load_segmentation_dataset(root, split="train")
    for folder in ("img", "labels"):
        (root / "train" / folder).mkdir(parents=True)
        Image.new("L", (2, 2)).save(root / "train" / folder / "a.png")
    with pytest.raises((ValueError, FileNotFoundError), match=there + ", train/"):
        load_segmentation_dataset(root, split="train")


def test_arguments_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match="num_scenes is 0"):
        load_segmentation_dataset("scenes", split="train", num_scenes=0)
    with pytest.raises(TypeError, match=r"\['num_scenes'\] for 'camvid'"):
        load_segmentation_dataset("camvid", data_dir=tmp_path, num_scenes=3)
    with pytest.raises(ValueError, match="are for Hub data"):
        load_segmentation_dataset("camvid", data_dir=tmp_path, label_column="mask")


@pytest.mark.parametrize("streaming", [False, True])
def test_bad_samples_are_named(tmp_path, streaming):
    write_folder(tmp_path, _pictures(3), name="p{}")
    mask = tmp_path / "masks/p1.png"
    for pixels, message in (
        (np.full((6, 8), 7), r"Sample p1: the label mask .*masks/p1\.png holds 7 \(48 pixels\)"),
        (np.zeros((6, 9)), r"Sample p1 \(.*p1\.png, .*masks/p1\.png\): the image is 8x6 and its label mask 9x6"),
        (np.zeros((6, 8, 3)), r"Sample p1: .*masks/p1\.png has mode 'RGB'.*label_space='NAME:color'"),
    ):
        Image.fromarray(pixels.astype(np.uint8)).save(mask)
        with pytest.raises(ValueError, match=message):
            list(load_segmentation_dataset(tmp_path, split="train", label_space=TWO, streaming=streaming))
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(mask)
    whole = (tmp_path / "images/p2.png").read_bytes()
    (tmp_path / "images/p2.png").write_bytes(whole[:60])
    data = load_segmentation_dataset(tmp_path, split="train", label_space=TWO, streaming=streaming)
    with pytest.raises(ValueError, match=r"Sample p2: the image .*images/p2\.png cannot be read"):
        list(data)
    (tmp_path / "images/p0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"Sample p0: .*p0\.png does not exist"):
        list(data)


@pytest.mark.parametrize("streaming", [False, True])
def test_scenes(streaming):
    options = {"num_scenes": 2, "height": 40, "width": 56, "seed": 5}
    data = load_segmentation_dataset("scenes", streaming=streaming, **options)
    assert list(data) == ["train", "validation", "test"]
    images = {}
    for split, part in data.items():
        for index, sample in enumerate(part):
            assert sample["image"].size == sample["label"].size == (56, 40)
            assert sample["image"].mode == "RGB" and sample["label"].mode == "L"
            assert sample["id"] == f"{split}-{index:06d}"
            images[sample["id"]] = sample["image"].tobytes()
    assert len(set(images.values())) == len(images) == 6, "no scene is in two splits"
    again = load_segmentation_dataset("scenes", split="val", **options)
    assert again[1]["image"].tobytes() == images["validation-000001"]
    other = load_segmentation_dataset("scenes", split="val", **{**options, "seed": 6})
    assert other[1]["image"].tobytes() not in images.values()


def test_nothing_is_decoded_before_access(tmp_path):
    write_folder(tmp_path, _pictures(2), name="p{}")
    for path in tmp_path.glob("*/*.png"):
        path.write_bytes(b"")
    data = load_segmentation_dataset(tmp_path, split="train", label_space=TWO)
    stream = load_segmentation_dataset(tmp_path, split="train", label_space=TWO, streaming=True)
    assert len(data) == 2
    for samples in (data, stream):
        with pytest.raises(ValueError, match="Sample p0"):
            next(iter(samples))


def test_real_camvid(camvid):
    data = load_segmentation_dataset("camvid", data_dir=camvid)
    assert {split: len(rows) for split, rows in data.items()}.items() >= {"train": 367, "validation": 101}.items()
    table = pq.read_table(camvid / "validation.parquet").slice(40, 3).to_pylist()
    for sample, row in zip((data["validation"][index] for index in (40, 41, 42)), table, strict=True):
        raw = np.asarray(Image.open(io.BytesIO(row["label"]["bytes"])))
        pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
        assert sample["id"] == row["id"] and raw.shape == (360, 480)
        _check(sample, pixels, np.where(raw == 11, 255, raw))


def test_real_voc(voc):
    data = load_segmentation_dataset("voc2012", data_dir=voc, split="val")
    names = (voc / "VOC2012/ImageSets/Segmentation/val.txt").read_text().split()
    for sample, name in zip(data, names[:4], strict=False):
        assert sample["id"] == name
        mask = Image.open(voc / f"VOC2012/SegmentationClass/{name}.png")
        assert mask.mode == "P"
        _check(sample, np.asarray(Image.open(voc / f"VOC2012/JPEGImages/{name}.jpg")), np.asarray(mask))
        assert set(np.unique(np.asarray(sample["label"])).tolist()) <= {*range(21), 255}


def _fake_hub(monkeypatch, data: datasets.Dataset, splits: tuple[str, ...] = ("train", "val")) -> dict:
    """Stands in for the Hub; returns what it is asked for."""
    asked: dict = {}

    def load(path, split, streaming, **options):
        asked.update(path=path, split=split, **options)
        return data.to_iterable_dataset() if streaming else data

    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda path, **options: list(splits))
    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def _rows(columns: dict[str, list]) -> datasets.Dataset:
    features = datasets.Features({name: datasets.Image() for name in columns})
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.mark.parametrize("streaming", [False, True])
def test_known_hub_ids_need_nothing_else(monkeypatch, streaming):
    image, label = _pictures(1, highest=150)[0]
    decoys = {"image": [_bytes(image)], "mask": [_bytes(image)], "annotation": [_bytes(label)]}
    asked = _fake_hub(monkeypatch, _rows(decoys))
    data = load_segmentation_dataset("zhoubolei/scene_parse_150", split="val", streaming=streaming)
    expected = np.where(label == 0, 255, label.astype(int) - 1)
    _check(next(iter(data)), image, expected)
    assert asked == {
        "path": "zhoubolei/scene_parse_150",
        "split": "val",
        "name": None,
        "revision": "refs/convert/parquet",
        "data_dir": "scene_parsing",
    }
    asked.clear()
    options = {"label_column": "mask", "revision": "main", "config_name": "other", "label_space": "voc2012"}
    data = load_segmentation_dataset("zhoubolei/scene_parse_150", split="train", streaming=streaming, **options)
    with pytest.raises(ValueError, match="label mask has mode 'RGB'"):
        next(iter(data))
    assert (asked["revision"], asked["name"]) == ("main", "other"), "what the user says goes first"
    assert "data_dir" not in asked
    assert get_label_space("zhoubolei/scene_parse_150").num_labels == 150


def test_converted_branches_are_read_by_folder(tmp_path):
    """What catalog/ade20k.yaml relies on: of a branch refs/convert/parquet, `data_dir` picks the configuration."""
    pairs = _pictures(2, highest=150)
    for config, pair in zip(("instance_segmentation", "scene_parsing"), pairs, strict=True):
        _write_parquet(tmp_path / config / "train/0000.parquet", [pair], ("image", "annotation"), ids=False)
    source = SPECS["ade20k"].hub[0]
    options = {"data_dir": source.data_dir, "label_space": "ade20k", "config_name": source.config}
    (sample,) = load_segmentation_dataset(tmp_path, split="train", **options)
    _check(sample, pairs[1][0], np.where(pairs[1][1] == 0, 255, pairs[1][1].astype(int) - 1))


@pytest.mark.parametrize("streaming", [False, True])
def test_any_hub_id_with_known_classes(monkeypatch, streaming):
    image, label = _pictures(1, highest=18)[0]
    _fake_hub(monkeypatch, _rows({"pixels": [_bytes(image)], "seg": [_bytes(label)]}))
    columns = {"image_column": "pixels", "label_column": "seg", "split": "train", "streaming": streaming}
    data = load_segmentation_dataset("org/name", label_space="cityscapes:train_ids", **columns)
    _check(next(iter(data)), image, label)
    data = load_segmentation_dataset("org/name", label_space="ade20k", **columns)
    _check(next(iter(data)), image, np.where(label == 0, 255, label.astype(int) - 1))


@pytest.mark.parametrize("streaming", [False, True])
def test_hub_test_splits_without_masks(monkeypatch, streaming):
    image = _pictures(1)[0][0]
    _fake_hub(monkeypatch, _rows({"image": [_bytes(image)]}), ("train", "test"))
    (sample,) = load_segmentation_dataset("org/name", split="test", label_space=TWO, streaming=streaming)
    np.testing.assert_array_equal(np.asarray(sample["image"]), image)
    assert sample["label"] is None and sample["id"] == "test-000000"
    with pytest.raises(ValueError, match="no label column"):
        load_segmentation_dataset("org/name", split="train", label_space=TWO, streaming=streaming)


@pytest.mark.parametrize("folders", [("images", "labels"), ("img/{split}", "ann/{split}"), (None, "labels")])
def test_own_folder_names(tmp_path, folders):
    (image, label), *_ = _pictures(1)
    names = [folder or "images" for folder in folders]
    for folder, pixels in zip(names, (image, label), strict=True):
        place = tmp_path / (folder.format(split="val") if "{" in folder else f"val/{folder}")
        place.mkdir(parents=True)
        Image.fromarray(pixels).save(place / "a.png")
    options = {"image_folder": folders[0], "label_folder": folders[1]}
    data = load_segmentation_dataset(tmp_path, split="val", label_space=TWO, **options)
    _check(data[0], image, label)
    with pytest.raises(FileNotFoundError, match=r"no split of .* Looked for train/x/ and train/y/.*there is: "):
        load_segmentation_dataset(tmp_path, split="val", label_space=TWO, image_folder="x", label_folder="y")
    with pytest.raises(ValueError, match="are for own folders; those of 'camvid' are known"):
        load_segmentation_dataset("camvid", data_dir=tmp_path, image_folder="x")


@pytest.mark.parametrize("streaming", [False, True])
def test_masks_of_colors(tmp_path, streaming):
    image, label = _pictures(1, highest=20)[0]
    label[0] = 255
    write_folder(tmp_path, [(image, np.array(palette_for(256), np.uint8)[label])], name="p{}")
    for space in ("voc2012:color", PASCAL_VOC):
        data = load_segmentation_dataset(tmp_path, split="train", label_space=space, streaming=streaming)
        if space is PASCAL_VOC:
            with pytest.raises(ValueError, match="has mode 'RGB'.*encoding 'color'"):
                next(iter(data))
        else:
            _check(next(iter(data)), image, label)
    (tmp_path / "classes.txt").write_text("\n".join(PASCAL_VOC.names))
    data = load_segmentation_dataset(tmp_path, split="train", label_space=f"{tmp_path}/classes.txt:color")
    with pytest.raises(ValueError, match=r"masks/p0\.png holds the colors \(224, 224, 192\) \(8 pixels\)"):
        data[0]


def test_info_says_whose_data_they_are(tmp_path):
    scenes = load_segmentation_dataset("scenes", num_scenes=1)
    assert {split: data.info.dataset_name for split, data in scenes.items()} == dict.fromkeys(scenes, "scenes")
    assert scenes["train"].info.license == SPECS["scenes"].license
    stream = load_segmentation_dataset("scenes", split="train", num_scenes=1, streaming=True)
    assert stream.info.citation == SPECS["scenes"].citation
    write_folder(tmp_path / "mine", [[Image.new("L", (2, 2))] * 2], ["ground"])
    own = load_segmentation_dataset(tmp_path / "mine", split="train")
    assert own.info.dataset_name == "mine" and not own.info.license


# Each name is a pattern that fits the name beside it.
PATTERNS = {"set[12]": "set1", "a*": "ab", "what?": "whats", "cam [v1]": "cam v", "**": "other", "{a,b}": "a"}


@pytest.mark.parametrize("name, other", PATTERNS.items())
def test_parquet_is_read_from_exactly_the_folder_named(name, other, tmp_path, monkeypatch):
    own, others = _pictures(2)
    _write_parquet(tmp_path / name / "train.parquet", [own])
    _write_parquet(tmp_path / other / "train.parquet", [others, others])
    monkeypatch.chdir(tmp_path / name)
    for folder in (Path("."), tmp_path / name):
        for streaming in (False, True):
            (sample,) = load_segmentation_dataset("camvid", split="train", data_dir=folder, streaming=streaming)
            _check(sample, *own)


@pytest.mark.parametrize("name", [name for name in PATTERNS if name != "{a,b}"] + ["x::y"])
def test_folders_that_datasets_takes_for_patterns_are_refused(name, tmp_path):
    for file in ("data/train-00000-of-00001.parquet", "train.parquet"):
        _write_parquet(tmp_path / "plain" / file, _pictures(1))
    (tmp_path / "plain").rename(tmp_path / name)
    with pytest.raises(ValueError, match="Rename the folder"):
        load_segmentation_dataset(tmp_path / name, split="train", label_space=TWO)
    if name == "x::y":  # datasets cannot write there either
        with pytest.raises(ValueError, match=r"x::y.*Rename the folder"):
            load_segmentation_dataset("camvid", split="train", data_dir=tmp_path / name)
