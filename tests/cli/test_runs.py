import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from toy import write_folder

from kaseg import KASegModel


def same_weights(first: Path, second: Path) -> bool:
    one, other = (KASegModel.from_pretrained(folder).state_dict() for folder in (first, second))
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_recipe_with_flags_trains_and_reports(trained: tuple[Path, str]) -> None:
    folder, output = trained
    results = json.loads((folder / "results.json").read_text())
    assert results["steps"] == 2
    assert results["recipe"]["learning_rate"] == 0.001
    model = KASegModel.from_pretrained(folder)
    assert (model.config.backbone, model.config.output_stride) == ("test_resnet", 32)
    assert f"{100 * results['mean_iou']:.2f}" in output
    assert all(name in output for name in results["per_category_iou"])
    assert f"Model, recipe and results: {folder}" in output


def test_a_stopped_run_goes_on(kaseg: Any, recipe_file: Path, trained: tuple[Path, str], tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    shutil.copytree(trained[0], folder)
    for name in ("results.json", "model.safetensors", "checkpoint-2"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = (folder / "checkpoint-1" / "model.safetensors").stat().st_mtime_ns
    kaseg.succeed("train", "--config", recipe_file, "--max-steps", 2, "--output-dir", folder)
    assert same_weights(folder, trained[0])
    # Not trained from the start: the first checkpoint is the old one.
    assert (folder / "checkpoint-1" / "model.safetensors").stat().st_mtime_ns == before


def test_a_finished_run_is_only_read(kaseg: Any, recipe_file: Path, trained: tuple[Path, str]) -> None:
    folder, _ = trained
    before = (folder / "model.safetensors").stat().st_mtime_ns
    result = kaseg.succeed("train", "--config", recipe_file, "--max-steps", 2, "--output-dir", folder)
    assert "This run was finished before; --no-resume trains anew." in result.output
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_another_recipe_in_the_same_folder(kaseg: Any, recipe_file: Path, trained: tuple[Path, str]) -> None:
    output = kaseg.fail("train", "--config", recipe_file, "--max-steps", 3, "--output-dir", trained[0])
    assert re.search(r"max_steps \(2 -> 3\).*--no-resume", output)


def test_mistakes(kaseg: Any, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("teacher: x\nbackbon: y\n")
    output = kaseg.fail("train", "--config", recipe, code=2)
    assert "'teacher' is a field of kaseg distill" in output
    assert "unknown key 'backbon'. Did you mean 'backbone'" in output
    assert kaseg("train", "--config", tmp_path / "nowhere.yaml").exit_code == 2
    assert "Error: output_stride must be one of" in kaseg.fail(
        "train", "--output-stride", 5, "--output-dir", tmp_path / "run"
    )


def test_a_run_whose_numbers_are_none_ends_unfinished(kaseg: Any, recipe_file: Path, tmp_path: Path) -> None:
    how = ("--learning-rate", 1e12, "--max-steps", 6, "--save-strategy", "no")
    result = kaseg("train", "--config", recipe_file, *how, "--output-dir", tmp_path)
    assert result.exit_code == 1
    assert re.search(r"Error: Step \d \(train\): the (loss|gradient) is \S+ for the samples train-00000", result.output)
    assert not (tmp_path / "results.json").exists() and not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    "classes, said", [("background\nobject\n", "masks of 0 and 255"), ("object\n", "Use two classes")]
)
def test_data_of_one_class(kaseg: Any, recipe_file: Path, tmp_path: Path, classes: str, said: str) -> None:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 32))
    for split in ("train", "validation"):
        write_folder(tmp_path / "data" / split, [(mask.convert("RGB"), mask)] * 2)
    (tmp_path / "data/classes.txt").write_text(classes)
    data = ("--dataset", tmp_path / "data", "--output-dir", tmp_path / "run")
    assert said in kaseg.fail("train", "--config", recipe_file, "--max-steps", 1, *data)
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_help(kaseg: Any) -> None:
    lines = kaseg.succeed("train", "--help").output.splitlines()
    rate = next(line for line in lines if " --learning-rate " in line)
    assert "0.007" in rate
    assert any("--output-stride" in line and "(paper: 16)" in line for line in lines)
    assert not any("--teacher" in line for line in lines)


def test_distills_a_student(kaseg: Any, recipe_file: Path, trained: tuple[Path, str], tmp_path: Path) -> None:
    folder = tmp_path / "adapted"
    flags = ["--teacher", trained[0], "--max-steps", 2, "--autoencoder-epochs", 0, "--autoencoder-max-steps", 1]
    flags += ["--latent-channels", 8, "--output-dir", folder]
    output = kaseg.succeed("distill", "--config", recipe_file, *flags).output
    results = json.loads((folder / "results.json").read_text())
    assert results["steps"] == 2
    assert (results["recipe"]["latent_channels"], results["recipe"]["autoencoder_max_steps"]) == (8, 1)
    assert (folder / "autoencoder" / "config.json").is_file()
    assert KASegModel.from_pretrained(folder).config.output_stride == 32
    assert f"Model, recipe and results: {folder}" in output


def test_distilling_needs_a_teacher(kaseg: Any, recipe_file: Path, tmp_path: Path) -> None:
    assert "Error: Knowledge adaptation needs a teacher" in kaseg.fail(
        "distill", "--config", recipe_file, "--output-dir", tmp_path
    )


def test_distill_help_groups_the_method(kaseg: Any) -> None:
    output = kaseg.succeed("distill", "--help").output
    titles = [output.index(f"─ {title} ─") for title in ("Model", "Data", "Teacher", "Objective", "Autoencoder")]
    assert titles == sorted(titles)
    assert "weight of the adaptation loss (paper), or auto." in output
