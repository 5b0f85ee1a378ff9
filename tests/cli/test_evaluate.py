from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kaseg import __version__


def test_scores_as_training_did(kaseg: Any, trained: tuple[Path, str], tmp_path: Path) -> None:
    file = tmp_path / "new" / "scores.json"
    output = kaseg.succeed(
        "evaluate", trained[0], "--dataset", "scenes", "--max-samples", 2, "--device", "cpu", "--json", file
    ).output
    scores = json.loads(file.read_text())
    results = json.loads((trained[0] / "results.json").read_text())
    for key in ("mean_iou", "mean_accuracy", "overall_accuracy"):
        assert scores[key] == pytest.approx(results[key], abs=2e-3)
    for key in ("dataset", "split", "protocol", "parameters", "gflops_513x513"):
        assert scores[key] == results[key]
    present = {name: iou for name, iou in scores["per_category_iou"].items() if iou is not None}
    assert present == pytest.approx(results["per_category_iou"], abs=2e-3)
    assert (scores["num_images"], scores["kaseg_version"]) == (2, __version__)
    assert f"{100 * scores['mean_iou']:.2f}" in output
    assert all(name in output for name in scores["per_category_accuracy"])


@pytest.fixture
def one_image(tmp_path: Path) -> Path:
    """A folder of one image whose only class of nine is sky."""
    folder = tmp_path / "data"
    for part, picture in (("images", Image.new("RGB", (64, 48), "blue")), ("masks", Image.new("L", (64, 48)))):
        (folder / part).mkdir(parents=True)
        picture.save(folder / part / "a.png")
    names = "sky road pavement building tree car person pole sign"
    (folder / "classes.txt").write_text("\n".join(names.split()))
    return folder


def test_absent_classes_are_null(kaseg: Any, trained: tuple[Path, str], one_image: Path, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    kaseg.succeed("evaluate", trained[0], "--dataset", one_image, "--split", "train", "--json", file)
    scores = json.loads(file.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert scores["per_category_accuracy"]["sky"] is not None
    assert scores["per_category_accuracy"]["car"] is None


def test_other_classes(kaseg: Any, trained: tuple[Path, str], one_image: Path) -> None:
    (one_image / "classes.txt").write_text("cat\ndog\n")
    result = kaseg("evaluate", trained[0], "--dataset", one_image, "--split", "train")
    assert result.exit_code == 1
    assert "Model (9): sky, road, pavement" in result.output
    assert "Dataset (2): cat, dog" in result.output


def test_without_an_image_processor(kaseg: Any, trained: tuple[Path, str], one_image: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "bare").mkdir(exist_ok=True)
        shutil.copy(trained[0] / name, tmp_path / "bare")
    result = kaseg.succeed("evaluate", tmp_path / "bare", "--dataset", one_image, "--split", "train")
    assert "has no image processor; the default one is used" in result.output


def test_mistakes(kaseg: Any, trained: tuple[Path, str], one_image: Path, tmp_path: Path) -> None:
    scenes = ("--dataset", "scenes", "--max-samples", 1)
    result = kaseg("evaluate", tmp_path / "nowhere", *scenes)
    assert (result.exit_code, "nowhere: no such folder" in result.output) == (1, True)
    (tmp_path / "config.json").write_text('{"model_type": "segformer"}')
    result = kaseg("evaluate", tmp_path, *scenes)
    assert (result.exit_code, "holds a model of type 'segformer', not 'kaseg'" in result.output) == (1, True)
    result = kaseg("evaluate", trained[0], *scenes, "--device", "abacus")
    assert (result.exit_code, "The device 'abacus' cannot be used" in result.output) == (1, True)
    result = kaseg("evaluate", trained[0], "--dataset", one_image, "--split", "test")
    assert (result.exit_code, "has no split 'test'; it has train" in result.output) == (1, True)
    assert kaseg("evaluate", trained[0]).exit_code == 2
