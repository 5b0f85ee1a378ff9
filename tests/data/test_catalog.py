import numpy as np
import official_layouts as official
import pytest
from PIL import Image

from kaseg.data.label_spaces import LabelSpace
from kaseg.data.loading import get_label_space, load_segmentation_dataset
from kaseg.data.sources import SPECS

STREAMING = pytest.mark.parametrize("streaming", [False, True])


def _load(name, root, **options):
    return load_segmentation_dataset(name, data_dir=root, **options)


def _ids(data) -> list[str]:
    return [sample["id"] for sample in data]


def _labels(data) -> list[np.ndarray]:
    """The masks, after a look at what every sample must be."""
    samples = list(data)
    assert samples
    for sample in samples:
        assert sample["image"].mode == "RGB" and sample["image"].size == official.SIZE[::-1]
        assert sample["label"].mode == "L" and sample["label"].size == official.SIZE[::-1]
    return [np.asarray(sample["label"]) for sample in samples]


def _expected(raw: list[int], meaning: dict[int, int]) -> np.ndarray:
    return np.array([meaning[value] for value in np.resize(raw, official.SIZE).flat]).reshape(official.SIZE)


@STREAMING
def test_voc_splits(tmp_path, streaming):
    official.write_voc(tmp_path)
    for root in (tmp_path, tmp_path / "VOCdevkit", tmp_path / "VOCdevkit/VOC2012"):
        data = _load("voc2012", root, streaming=streaming)
        assert list(data) == ["train", "validation", "trainval", "test"]
    assert _ids(data["train"]) == official.VOC_SPLITS["train"]
    assert _ids(data["trainval"]) == official.VOC_SPLITS["train"] + official.VOC_SPLITS["val"]
    for label in _labels(data["trainval"]):
        np.testing.assert_array_equal(label, np.resize([0, 15, 255], official.SIZE))
    image = np.asarray(Image.open(tmp_path / "VOCdevkit/VOC2012/JPEGImages/2007_000033.jpg"))
    np.testing.assert_array_equal(np.asarray(next(iter(data["validation"]))["image"]), image)


@STREAMING
def test_test_splits_have_pictures_and_no_labels(tmp_path, streaming):
    official.write_voc(tmp_path)
    for on_error in ("raise", "skip"):
        (sample,) = _load("voc2012", tmp_path, split="test", streaming=streaming, on_error=on_error)
        assert sample["id"] == "2008_000001" and sample["image"].mode == "RGB" and sample["label"] is None


@STREAMING
def test_voc_trainaug_from_sbd(tmp_path, streaming):
    """SBD's train and validation with VOC's train and without VOC's validation; VOC's own masks where there are any."""
    official.write_voc(tmp_path)
    official.write_sbd(tmp_path)
    data = _load("voc2012", tmp_path, split="trainaug", streaming=streaming)
    masks = dict(zip(_ids(data), _labels(data), strict=True))
    assert set(masks) == {"2007_000032", "2007_000039", "2008_000002", "2008_000003"}
    np.testing.assert_array_equal(masks["2007_000032"], np.resize([0, 15, 255], official.SIZE))
    np.testing.assert_array_equal(masks["2008_000003"], np.resize([0, 7], official.SIZE))

    official.write_list(tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt", ["2008_000002"])
    assert _ids(_load("voc2012", tmp_path, split="trainaug")) == ["2008_000002"]


def test_voc_trainaug_from_converted_masks(tmp_path):
    official.write_voc(tmp_path)
    voc = tmp_path / "VOCdevkit/VOC2012"
    for name in ("2007_000032", "2007_000033", "2008_000002"):
        official.write_picture(voc / f"JPEGImages/{name}.jpg")
        official.write_mask(voc / f"SegmentationClassAug/{name}.png", [0, 7])
    assert _ids(_load("voc2012", tmp_path, split="trainaug")) == ["2007_000032", "2008_000002"], "without validation"
    lines = ["/JPEGImages/2008_000002.jpg /SegmentationClassAug/2008_000002.png"]
    official.write_list(voc / "ImageSets/Segmentation/train_aug.txt", lines)
    data = _load("voc2012", tmp_path, split="trainaug")
    assert _ids(data) == ["2008_000002"]
    np.testing.assert_array_equal(_labels(data)[0], np.resize([0, 7], official.SIZE))


CITYSCAPES_TRAIN_IDS = dict(
    zip([7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33], range(19), strict=True)
)


@STREAMING
def test_cityscapes(tmp_path, streaming):
    official.write_cityscapes(tmp_path)
    data = _load("cityscapes", tmp_path, streaming=streaming)
    assert list(data) == ["train", "validation", "test"]
    assert _ids(data["train"]) == official.CITYSCAPES_IDS["train"]
    meaning = {value: CITYSCAPES_TRAIN_IDS.get(value, 255) for value in range(256)}
    for label in _labels(data["train"]):
        np.testing.assert_array_equal(label, _expected([*range(34), 255], meaning))
    assert (_labels(data["test"])[0] == 255).all()


def test_cityscapes_test_without_masks(tmp_path):
    official.write_cityscapes(tmp_path, splits={"test": official.CITYSCAPES_IDS["test"]})
    for path in tmp_path.glob("gtFine/test/*/*"):
        path.unlink()
    (sample,) = _load("cityscapes", tmp_path, split="test")
    assert sample["label"] is None


def test_cityscapes_train_ids_when_asked_for(tmp_path):
    official.write_cityscapes(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"Looked for .*_gtFine_labelTrainIds\.png"):
        _load("cityscapes", tmp_path, split="train", label_space="cityscapes:train_ids")
    for name in official.CITYSCAPES_IDS["train"]:
        official.write_mask(tmp_path / f"gtFine/train/{name}_gtFine_labelTrainIds.png", [0, 18, 255])
    for space in ("cityscapes:train_ids", get_label_space("cityscapes", None, "cityscapes:train_ids")):
        data = _load("cityscapes", tmp_path, split="train", label_space=space)
        np.testing.assert_array_equal(_labels(data)[0], np.resize([0, 18, 255], official.SIZE))
    for space in (None, "cityscapes", get_label_space("cityscapes")):
        assert len(np.unique(_labels(_load("cityscapes", tmp_path, split="train", label_space=space))[0])) == 20


def test_cityscapes_coarse(tmp_path):
    official.write_cityscapes(tmp_path, "gtCoarse", {**official.CITYSCAPES_IDS, "train_extra": ["augsburg/augsburg_0"]})
    data = _load("cityscapes_coarse", tmp_path)
    assert list(data) == ["train", "train_extra", "validation"]
    assert _ids(data["train_extra"]) == ["augsburg/augsburg_0"]
    assert set(np.unique(_labels(data["train_extra"])[0])) == {*range(19), 255}


@STREAMING
def test_ade20k(tmp_path, streaming):
    official.write_ade20k(tmp_path)
    for root in (tmp_path, tmp_path / "ADEChallengeData2016"):
        data = _load("ade20k", root, streaming=streaming)
        assert list(data) == ["train", "validation"]
        assert _ids(data["validation"]) == ["ADE_val_00000001"]
        meaning = {0: 255, 1: 0, 2: 1, 150: 149}
        np.testing.assert_array_equal(_labels(data["train"])[0], _expected([0, 1, 2, 150], meaning))


@STREAMING
@pytest.mark.parametrize("images, masks", [("images", "stuffthingmaps"), (".", "annotations")])
def test_coco_stuff(tmp_path, images, masks, streaming):
    official.write_coco_stuff(tmp_path, images, masks)
    # mmseg puts its conversion beside the masks; it is another encoding, taken only when asked for.
    converted = tmp_path / masks / "val2017/000000000139_labelTrainIds.png"
    official.write_mask(converted, [170, 255])
    data = _load("coco_stuff", tmp_path, streaming=streaming)
    assert list(data) == ["train", "validation"]
    # 11 of the values 0..181 are unused: 11 before the 12, all 11 before the 181.
    meaning = {0: 0, 12: 11, 91: 80, 181: 170, 255: 255}
    np.testing.assert_array_equal(_labels(data["validation"])[0], _expected([0, 12, 91, 181, 255], meaning))
    asked = _load("coco_stuff", tmp_path, label_space="coco_stuff:train_ids", split="val", streaming=streaming)
    np.testing.assert_array_equal(_labels(asked)[0], np.resize([170, 255], official.SIZE))


def test_other_masks_of_coco_stuff(tmp_path):
    """Converted ones where there are no others, and values that are not used."""
    official.write_coco_stuff(tmp_path)
    for value in (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90, 182):
        official.write_mask(tmp_path / "stuffthingmaps/val2017/000000000139.png", [0, value])
        with pytest.raises(ValueError, match=rf"stuffthingmaps/val2017/000000000139\.png holds {value} "):
            _labels(_load("coco_stuff", tmp_path, split="val"))
    for path in tmp_path.glob("stuffthingmaps/*/*.png"):
        path.unlink()
        official.write_mask(path.with_name(f"{path.stem}_labelTrainIds.png"), [11, 170, 255])
    found = _labels(_load("coco_stuff", tmp_path, split="train"))[0]
    np.testing.assert_array_equal(found, np.resize([11, 170, 255], official.SIZE))


CONTEXT_VALUES = [0, 2, 9, 431, 458, 459]  # unlabelled, aeroplane, bag, unknown, wood, wool


@STREAMING
def test_pascal_context_as_published(tmp_path, streaming):
    official.write_pascal_context(tmp_path, CONTEXT_VALUES)
    data = _load("pascal_context", tmp_path, streaming=streaming)
    assert list(data) == ["train", "validation"]
    assert _ids(data["train"]) == official.CONTEXT_IDS["train"], "only what is annotated"
    meaning = {0: 255, 2: 0, 9: 1, 431: 255, 458: 58, 459: 255}
    np.testing.assert_array_equal(_labels(data["train"])[0], _expected(CONTEXT_VALUES, meaning))
    data = _load("pascal_context_60", tmp_path, split="val", streaming=streaming)
    meaning = {0: 0, 2: 1, 9: 2, 431: 0, 458: 59, 459: 0}
    np.testing.assert_array_equal(_labels(data)[0], _expected(CONTEXT_VALUES, meaning))


@STREAMING
def test_pascal_context_as_png(tmp_path, streaming):
    official.write_pascal_context_png(tmp_path, [0, 1, 59])
    for space in (None, "pascal_context", get_label_space("pascal_context")):
        data = _load("pascal_context", tmp_path, label_space=space, streaming=streaming)
        assert _ids(data["train"]) == official.CONTEXT_IDS["train"]
        np.testing.assert_array_equal(_labels(data["train"])[0], _expected([0, 1, 59], {0: 255, 1: 0, 59: 58}))
    data = _load("pascal_context_60", tmp_path, split="train", streaming=streaming)
    np.testing.assert_array_equal(_labels(data)[0], np.resize([0, 1, 59], official.SIZE))


def test_pascal_context_list_of_classes_must_agree(tmp_path):
    space = SPECS["pascal_context"].label_space
    published = {value: space.names[train] for value, train in space.label_map.items() if train != 255}
    official.write_pascal_context(tmp_path, CONTEXT_VALUES, {**published, 1: "accordion", 431: "unknown"})
    for name in ("pascal_context", "pascal_context_60"):
        assert len(_load(name, tmp_path, split="val")) == 1
    official.write_pascal_context(tmp_path, CONTEXT_VALUES, {**published, 9: "ball"})
    for name in ("pascal_context", "pascal_context_60"):
        with pytest.raises(ValueError, match=r"labels\.txt: it calls the label 9 'ball', but .* it is 'bag'"):
            _load(name, tmp_path, split="val")


@STREAMING
def test_camvid_folders(tmp_path, streaming):
    official.write_camvid_folders(tmp_path)
    for root in (tmp_path, tmp_path / "CamVid"):
        data = _load("camvid", root, streaming=streaming)
        assert list(data) == ["train", "validation", "test"]
    assert _ids(data["test"]) == ["0001TP_006690"]
    np.testing.assert_array_equal(_labels(data["test"])[0], np.resize([*range(11), 255], official.SIZE))


def test_own_classes_on_known_layouts(tmp_path):
    """The layout is that of the dataset, the values are what the user says."""
    official.write_ade20k(tmp_path)
    space = LabelSpace("mine", ("thing",), label_map={0: 255, 1: 0, 2: 0, 150: 255})
    data = _load("ade20k", tmp_path, split="train", label_space=space)
    assert set(np.unique(_labels(data)[0])) == {0, 255}


@pytest.mark.parametrize("name", sorted(set(SPECS) - {"scenes"}))
def test_wrong_folders_are_described(tmp_path, name):
    (tmp_path / "unpacked").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match=rf"no split of '{name}' is there\. Looked for .*notes\.txt, unpacked/"):
        _load(name, tmp_path)


def test_a_missing_split_is_described(tmp_path):
    official.write_voc(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"no split 'trainaug'; it has train, .*SegmentationClassAug.*VOCdevkit/"
    ):
        _load("voc2012", tmp_path, split="trainaug")


@pytest.mark.parametrize("masks", ["mat", "png"])
def test_context_read_with_the_classes_of_its_relative(tmp_path, masks):
    if masks == "mat":
        official.write_pascal_context(tmp_path, [2, 458, 3])
    else:
        official.write_pascal_context_png(tmp_path, [1, 59, 0])
    for name, other in (("pascal_context", "pascal_context_60"), ("pascal_context_60", "pascal_context")):
        for space in (other, get_label_space(other)):
            (label,) = {label.tobytes() for label in _labels(_load(name, tmp_path, split="train", label_space=space))}
            (same,) = {label.tobytes() for label in _labels(_load(other, tmp_path, split="train"))}
            assert label == same
