"""Datasets on the Hub."""

import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from hub_server import HubServer
from toy import write_folder

from kaseg.data import SCENES, LabelSpace, get_label_space, load_segmentation_dataset, read_label_space
from kaseg.hub import dataset_files, dataset_label_space

DATASET = """
import sys
import numpy as np
from kaseg.data import load_segmentation_dataset
from kaseg.hub import dataset_label_space
repo, expected = sys.argv[1:]
wanted = np.load(expected)
space = dataset_label_space(repo)
assert space.names == tuple(wanted["names"]) and np.array_equal(space.palette, wanted["palette"])
for streaming in (False, True):
    parts = load_segmentation_dataset(repo, label_space=space, streaming=streaming)
    for split in ("train", "validation"):
        samples = list(parts[split])
        assert [s["id"] for s in samples] == list(wanted[f"{split}_ids"]), samples
        for key in ("image", "label"):
            assert all(np.array_equal(s[key], w) for s, w in zip(samples, wanted[f"{split}_{key}s"], strict=True))
print("done")
"""


def expected_samples(dataset: datasets.DatasetDict, space: LabelSpace) -> dict[str, np.ndarray]:
    wanted: dict[str, np.ndarray] = {"names": np.array(space.names), "palette": np.array(space.palette)}
    for split in ("train", "validation"):
        wanted[f"{split}_ids"] = np.array([sample["id"] for sample in dataset[split]])
        for key in ("image", "label"):
            wanted[f"{split}_{key}s"] = np.stack([np.asarray(sample[key]) for sample in dataset[split]])
    return wanted


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


@pytest.mark.slow
def test_a_dataset_comes_back_as_it_was(kaseg, hub: HubServer, tmp_path: Path, run_process) -> None:
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
    wanted = expected_samples(load_segmentation_dataset(folder), get_label_space(folder))
    np.savez(tmp_path / "wanted.npz", **wanted)
    assert "done" in run_process(DATASET, "me/shapes", tmp_path / "wanted.npz")


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
