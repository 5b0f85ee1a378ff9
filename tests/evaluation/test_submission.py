"""Files for the benchmarks' servers, read back with the raw values they must hold."""

import fnmatch
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toy import ReadsTheLabel

from kaseg import KASegImageProcessor
from kaseg.data import PASCAL_VOC, LabelSpace, get_label_space, load_segmentation_dataset, palette_for
from kaseg.data.image_files import read_mask
from kaseg.data.label_spaces import map_labels
from kaseg.evaluation import InferenceProtocol
from kaseg.evaluation.submission import raw_values, submission_name, write_submission

CITYSCAPES = LabelSpace(
    "cityscapes", ("road", "sidewalk", "sky"), label_map={0: 255, 7: 0, 8: 1, 23: 2, 10: 255, 9: 255}
)


def samples(num_labels: int, *names: str) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, num_labels, (10 + index, 14, 3), dtype=np.uint8) for index in range(len(names))]
    return [{"image": Image.fromarray(p), "label": None, "id": n} for p, n in zip(images, names, strict=True)]


def write(data: list[dict[str, Any]], folder: Path, space: LabelSpace, **options: Any) -> int:
    processor = KASegImageProcessor(do_normalize=False)
    return write_submission(ReadsTheLabel(space.names), data, processor, folder, space, **options)


def test_pascal_voc(tmp_path: Path) -> None:
    data = samples(21, "2008_000006", "2008_000011")
    assert write(data, tmp_path, PASCAL_VOC) == 2
    folder = tmp_path / "results/VOC2012/Segmentation/comp6_test_cls"
    assert sorted(path.name for path in folder.iterdir()) == ["2008_000006.png", "2008_000011.png"]
    for sample in data:
        image = Image.open(folder / f"{sample['id']}.png")
        assert image.mode == "P" and image.getpalette() == [value for color in palette_for(256) for value in color]
        assert np.array_equal(np.array(image), np.array(sample["image"])[..., 0])


def test_cityscapes_gets_label_ids_under_names_that_its_script_finds(tmp_path: Path) -> None:
    data = samples(3, "berlin/berlin_000000_000019", "bielefeld_000000_000321_leftImg8bit")
    seen: list[int] = []
    assert write(data, tmp_path, CITYSCAPES, batch_size=2, progress=seen.append) == 2 == sum(seen)
    files = sorted(path.name for path in tmp_path.rglob("*.png"))
    for sample, frame in zip(data, ("berlin_000000_000019", "bielefeld_000000_000321"), strict=True):
        (file,) = fnmatch.filter(files, f"{frame}*.png")
        image = Image.open(tmp_path / file)
        assert image.mode == "L"
        assert np.array_equal(np.array(image), np.array([7, 8, 23])[np.array(sample["image"])[..., 0]])


def test_other_datasets_get_their_own_raw_values(tmp_path: Path) -> None:
    space = LabelSpace("rooms", ("wall", "floor"), label_map={0: 255, 1: 0, 2: 1})
    data = samples(2, "kitchen/1", "2")
    protocol = InferenceProtocol("slide", crop_size=8, overlap=2)
    labelled = [{**sample, "label": Image.new("L", (3, 3), 9)} for sample in data]
    assert write(labelled, tmp_path, space, protocol=protocol, num_workers=1) == 2
    for sample in data:
        mask = np.array(Image.open(tmp_path / f"{sample['id']}.png"))
        assert np.array_equal(mask, 1 + np.array(sample["image"])[..., 0])
    assert raw_values(LabelSpace("plain", ("a", "b", "c"))).tolist() == [0, 1, 2]


@pytest.mark.parametrize("source", ["name", "file", "object", "object with a label map"])
def test_masks_of_colors_are_given_back_as_colors(source: str, tmp_path: Path) -> None:
    """What is written reads as what was predicted, by the label space that reads the dataset's own masks."""
    asked: Any = "camvid:color"
    if source == "file":
        entries = {3: {"name": "wall", "color": "#804080"}, 8: {"name": "floor", "color": "#010203"}}
        (tmp_path / "classes.json").write_text(json.dumps(entries | {9: {"name": None, "color": "#ffffff"}}))
        asked = f"{tmp_path / 'classes.json'}:color"
    elif source != "name":
        label_map = {7: 0, 8: 1} if "map" in source else None  # which masks of colors do not have a use for
        palette, void = ((9, 8, 7), (6, 5, 4)), ((255, 0, 0),)
        asked = LabelSpace("rooms", ("wall", "floor"), palette, 255, label_map, "color", void)
    space = get_label_space("folder", label_space=asked)
    data = samples(space.num_labels, "kitchen/1", "2")
    assert write(data, tmp_path / "out", space) == 2
    for sample in data:
        file = tmp_path / "out" / f"{sample['id']}.png"
        assert Image.open(file).mode == "RGB"
        found = map_labels(read_mask(file, colors=True), space, "a")
        assert np.array_equal(found, np.array(sample["image"])[..., 0])


def test_servers_that_take_class_ids_get_them_whatever_the_masks_at_hand_hold(tmp_path: Path) -> None:
    space = get_label_space("voc2012", label_space="voc2012:color")
    (sample,) = data = samples(21, "2008_000006")
    write(data, tmp_path, space)
    (file,) = tmp_path.rglob("*.png")
    assert Image.open(file).mode == "P"
    assert np.array_equal(np.array(Image.open(file)), np.array(sample["image"])[..., 0])
    with pytest.raises(ValueError, match="'cityscapes' has no label map, but the Cityscapes server wants label ids"):
        write(samples(19, "berlin_000000_000019"), tmp_path, get_label_space("x", label_space="cityscapes:color"))


def test_names() -> None:
    sample = "train/zurich/zurich_000121_000019"
    assert str(submission_name("cityscapes_coarse", sample)) == "zurich_000121_000019_pred.png"
    assert str(submission_name("ade20k", "ADE_test_00000001")) == "ADE_test_00000001.png"
    for name in ("frankfurt", "frankfurt_12_13", "12345"):
        with pytest.raises(ValueError, match=f"Sample '{name}': the Cityscapes server takes"):
            submission_name("cityscapes", name)
    for name in ("../a", "/a", "a/../../b"):
        with pytest.raises(ValueError, match="outside the output folder"):
            submission_name("rooms", name)


def test_label_maps_without_an_inverse() -> None:
    for label_map, found in (
        ({1: 0, 2: 0, 3: 1}, r"'a' .* \[1, 2\]"),
        ({1: 0}, r"'b' .* \[\]"),
        ({1: 0, 300: 1}, "300"),
    ):
        with pytest.raises(ValueError, match=f"Class {found}" if "'" in found else found):
            raw_values(LabelSpace("odd", ("a", "b"), label_map=label_map))
    with pytest.raises(ValueError, match="wants label ids in place of train ids"):
        raw_values(LabelSpace("cityscapes", ("road",)))


@pytest.mark.parametrize("way, kind", [("folder", "images"), ("link", "masks"), ("selection", "masks")])
def test_files_of_the_dataset_are_not_overwritten(kind: str, way: str, tmp_path: Path) -> None:
    """Masks that a model has predicted would give it a perfect score."""
    data, output = tmp_path / "data", tmp_path / "data/test" / kind
    for part in ("images", "masks"):
        (data / "test" / part).mkdir(parents=True)
        for name in "ab":
            Image.new("L", (14, 10), int(name == "b")).save(data / "test" / part / f"{name}.png")
    before = {file: file.read_bytes() for file in data.rglob("*.png")}
    if way == "link":
        (tmp_path / "link").symlink_to(output, target_is_directory=True)
        output = tmp_path / "link"
    space = LabelSpace("two", ("wall", "floor"))
    dataset: Any = load_segmentation_dataset(data, split="test", label_space=space)
    with pytest.raises(ValueError, match=r"[ab]\.png is a file of the dataset"):
        write(dataset.select([1]) if way == "selection" else dataset, output, space)
    assert {file: file.read_bytes() for file in data.rglob("*.png")} == before
    for _ in range(2):  # its own files may be there
        assert write(dataset, data / "predicted", space) == 2


@pytest.mark.parametrize(
    ("space", "names"),
    [
        (PASCAL_VOC, ("a/2008_000006", "b/2008_000006")),
        (CITYSCAPES, ("x/berlin_000000_000019_leftImg8bit", "berlin_000000_000019")),
        (LabelSpace("rooms", ("wall", "floor")), ("kitchen", "kitchen")),
    ],
)
def test_two_samples_do_not_share_a_file(space: LabelSpace, names: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"Sample '{names[1]}': .* is another sample's file already"):
        write(samples(space.num_labels, *names), tmp_path, space)
    (tmp_path / "out").write_text("a file in the way")
    with pytest.raises(OSError, match=r"cannot write .*out/"):
        write(samples(space.num_labels, names[1]), tmp_path / "out", space)
