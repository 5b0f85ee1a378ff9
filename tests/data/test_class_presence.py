import json
import logging

import datasets
import numpy as np
import pytest
from PIL import Image
from toy import write_folder

from kaseg.data import SegmentationDataset, TrainTransform, load_segmentation_dataset
from kaseg.data import samples as samples_module
from kaseg.data.class_presence import check_training_masks, look_at_masks, require_labelled_pixels

NAMES = ("background", "object")


def _folder(root, masks, classes=NAMES):
    """An own folder with one image for each mask."""
    pairs = [(Image.new("RGB", mask.shape[::-1]), mask) for mask in masks]
    write_folder(root, pairs, () if isinstance(classes, dict) else classes)
    if isinstance(classes, dict):
        (root / "classes.json").write_text(json.dumps(classes))
    return root


def _mask(*values) -> np.ndarray:
    return np.array([values], np.uint8).repeat(4, axis=0)


def _load(root, masks, classes=NAMES, **options):
    return load_segmentation_dataset(_folder(root, masks, classes), split="train", **options)


@pytest.mark.parametrize(
    "masks, message",
    [
        ([_mask(0, 255), _mask(0, 0)], "hold the class 'background' alone.*'object'.*masks of 0 and 255.*classes.json"),
        ([_mask(255, 255)], "hold no class at all.*masks of 0 and 255"),
        ([_mask(0, 0)], "all 1 training masks hold the class 'background' alone. What never occurs: 'object'.$"),
        ([_mask(1, 1), _mask(1, 255)], "hold the class 'object' alone"),
    ],
)
def test_masks_of_which_nothing_can_be_learned(masks, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        check_training_masks(_load(tmp_path / "own", masks), NAMES)


def test_what_the_message_says_to_write_helps(tmp_path):
    data = _load(tmp_path / "own", [_mask(0, 255)], {"0": "background", "255": "object"})
    assert np.unique(data[0]["label"]).tolist() == [0, 1]
    check_training_masks(data, NAMES)


def test_a_class_that_never_occurs_is_named(tmp_path, caplog):
    data = _load(tmp_path / "own", [_mask(0, 2, 255)], ("sky", "road", "car", "tree"))
    with caplog.at_level(logging.WARNING, "kaseg"):
        check_training_masks(data, ("sky", "road", "car", "tree"))
    assert "none of all 1 training masks" in caplog.text and "'road', 'tree'" in caplog.text
    caplog.clear()
    check_training_masks(_load(tmp_path / "full", [_mask(0, 255), _mask(1, 1)]), NAMES)
    assert not caplog.text


def test_streams_and_wrappers_and_other_samples(tmp_path, caplog):
    data = _load(tmp_path / "own", [_mask(0, 255), _mask(0, 0)])
    with pytest.raises(ValueError, match="nothing to learn"):
        check_training_masks(SegmentationDataset(data, lambda image, label: {}), NAMES)
    for own in ([{"labels": _mask(0, 255)}], datasets.Dataset.from_list([{"label": [[0, 255]]}])):
        with pytest.raises(ValueError, match="nothing to learn"):
            check_training_masks(own, NAMES)
    check_training_masks([{"other": 1}], NAMES)  # whatever that is, it has no masks to look at
    with caplog.at_level(logging.WARNING, "kaseg"):  # the next sample may hold another class
        check_training_masks(load_segmentation_dataset(tmp_path / "own", split="train", streaming=True), NAMES)
    assert "nothing to learn" in caplog.text


def test_no_more_masks_are_read_than_it_takes_and_no_image_is(tmp_path, monkeypatch):
    data = _load(tmp_path / "own", [_mask(0, 1) for _ in range(8)])
    monkeypatch.setattr(samples_module, "read_image", None)
    assert look_at_masks(data, 2).masks == 1
    assert look_at_masks(data, 3) == look_at_masks(data.select(range(8)), 3)
    assert look_at_masks(data, 3).masks == 8 and look_at_masks(data, 3).all_masks
    monkeypatch.setattr("kaseg.data.class_presence._ENOUGH", 5)
    seen = look_at_masks(data, 3)
    assert seen.masks == 5 and not seen.all_masks
    assert look_at_masks(_load(tmp_path / "one", [_mask(0, 0)] * 8), 3).masks == 8  # until two are found


def test_data_to_score_need_a_labelled_pixel(tmp_path):
    with pytest.raises(ValueError, match="val: not one of the 2 masks has a labelled pixel.*nothing to score"):
        require_labelled_pixels(_load(tmp_path / "void", [_mask(255, 255)] * 2), 2, "val")
    require_labelled_pixels(_load(tmp_path / "own", [_mask(255, 255), _mask(255, 1)]), 2, "val")
    image = Image.new("RGB", (4, 4))
    for nothing in ([], [{"image": image, "label": None, "id": "a"}], [{"image": image, "id": "a"}] * 2):
        with pytest.raises(ValueError, match="val: there is no sample that has a mask"):
            require_labelled_pixels(SegmentationDataset(nothing, TrainTransform(8)), 2, "val")
    require_labelled_pixels([{"other": 1}], 2, "val")  # read by a collator of the user's own
