"""Datasets on the Hub."""

import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from hub_server import HubServer
from toy import write_folder

from kaseg.data import SCENES, get_label_space, load_segmentation_dataset, read_label_space
from kaseg.hub import dataset_files, dataset_label_space


def make_folder(folder: Path) -> Path:
    """A dataset of JPEG images and palette masks, with raw ids that have a gap."""
    rng = np.random.default_rng(0)
    for split in ("train", "validation"):
        masks = rng.choice(np.array([0, 7, 9], np.uint8), (3, 24, 32))
        write_folder(
            folder / split, zip(rng.integers(0, 255, (3, 24, 32, 3), np.uint8), masks, strict=True), suffix="jpg"
        )
    classes = {"0": {"name": "ground", "color": "#102030"}, "7": {"name": "sky", "color": "#405060"}, "9": None}
    (folder / "classes.json").write_text(json.dumps(classes))
    return folder


def test_a_dataset_comes_back_as_it_was(kaseg, hub: HubServer, tmp_path: Path, monkeypatch) -> None:
    folder = make_folder(tmp_path / "shapes")
    command = ("dataset", "push", folder, "me/shapes", "--licence", "MIT")
    assert "data/train-00000-of-00001.parquet" in kaseg.succeed(*command, "--dry-run").output
    assert hub.requests == []
    kaseg.succeed(*command)
    repo = hub.repo("me/shapes", "dataset")
    card = repo.files()["README.md"].decode()
    assert repo.private and "license: mit" in card and "| 1 | sky | `#405060` |" in card
    assert str(tmp_path) not in card
    originals = [path.read_bytes() for path in sorted((folder / "train" / "images").iterdir())]
    assert all(data in repo.files()["data/train-00000-of-00001.parquet"] for data in originals), (
        "JPEGs stay as they are"
    )
    settings = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": False, "HF_DATASETS_CACHE": tmp_path / "datasets"}
    for name, value in settings.items():
        monkeypatch.setattr(datasets.config, name, value)
    space, wanted = dataset_label_space("me/shapes"), load_segmentation_dataset(folder)
    assert (space.names, space.palette) == (get_label_space(folder).names, get_label_space(folder).palette)
    for streaming in (False, True):
        parts = load_segmentation_dataset("me/shapes", label_space=space, streaming=streaming)
        for split in ("train", "validation"):
            for sample, own in zip(parts[split], wanted[split], strict=True):
                assert sample["id"] == own["id"]
                assert all(np.array_equal(sample[key], own[key]) for key in ("image", "label"))


def test_rendered_scenes_and_their_classes(tmp_path: Path) -> None:
    options = {"num_scenes": 2, "height": 32, "width": 48}
    with dataset_files("scenes", "me/scenes", split="train", **options) as files:
        assert set(files) == {"README.md", "classes.json", "data/train-00000-of-00001.parquet"}
        table = datasets.Dataset.from_parquet(str(files["data/train-00000-of-00001.parquet"]), cache_dir=str(tmp_path))
        (tmp_path / "classes.json").write_bytes(files["classes.json"])
    scenes = load_segmentation_dataset("scenes", split="train", **options)
    for row, scene in zip(table, scenes, strict=True):
        assert row["id"] == scene["id"]
        assert all(np.array_equal(row[key], scene[key]) for key in ("image", "label"))
    assert "license: apache-2.0" in files["README.md"].decode()
    assert replace(read_label_space(tmp_path / "classes.json"), name="scenes") == SCENES


def test_no_such_dataset_is_told(hub: HubServer) -> None:
    with pytest.raises(OSError, match="datasets/me/none is neither"):
        dataset_label_space("me/none")
