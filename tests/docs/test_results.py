"""The tables of results under docs/results/ and the script that adds runs to them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
FAMILIES = sorted(file.parent for file in RESULTS.glob("*/runs.csv"))


@pytest.fixture(scope="module")
def collect() -> Any:
    spec = importlib.util.spec_from_file_location("collect", RESULTS / "collect.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("folder", FAMILIES, ids=lambda folder: folder.name)
def test_every_run_has_its_recipe_and_scores_that_fit(collect: Any, folder: Path) -> None:
    recipes = yaml.safe_load((folder / "recipes.yaml").read_text())
    rows = collect.read_rows(folder)
    assert len({row["run"] for row in rows}) == len(rows) > 0
    assert {row["recipe"] for row in rows} == recipes.keys()
    assert all(collect.hash_of(recipe) == key for key, recipe in recipes.items())
    for row in rows:
        classes = [float(value) for key, value in row.items() if key.startswith("iou_") and value]
        assert float(row["mean_iou"]) == pytest.approx(sum(classes) / len(classes), abs=1e-4), row["run"]


def test_runs_are_added_once(collect: Any, tmp_path: Path) -> None:
    results = {
        **{key: 1 for key in (*collect.FACTS, *collect.SCORES, "seed")},
        "recipe": {"learning_rate": 0.5, "seed": 1},
        "versions": {"kaseg": "0.1.0", "torch": "2.15.0"},
        "per_category_iou": {"sky": 0.25},
        "log": [
            {"loss": 2.0, "distillation/affinity": 0.5, "learning_rate": 0.1, "epoch": 1.0},
            {"eval_mean_iou": 0.25, "eval_loss": 1.0, "epoch": 1.0},
            {"loss": 1.0, "distillation/affinity": 0.25, "epoch": 2.0},
        ],
    }
    collect.add(tmp_path, {"os16/kd/seed-1": results})
    collect.add(tmp_path, {"os16/kd/seed-1": {**results, "mean_iou": 0.5}, "os16/a/seed-2": {**results, "seed": 2}})
    first, second = collect.read_rows(tmp_path)
    assert (first["run"], second["run"]) == ("os16/a/seed-2", "os16/kd/seed-1")
    assert second["mean_iou"] == "0.5" and second["iou_sky"] == "0.25"
    assert second["curve_loss"] == "1:2 2:1" and second["curve_affinity"] == "1:0.5 2:0.25"
    assert second["curve_eval_mean_iou"] == "1:0.25"
    # Runs that differ in the seed alone have one recipe.
    recipes = yaml.safe_load((tmp_path / "recipes.yaml").read_text())
    assert recipes == {first["recipe"]: {"learning_rate": 0.5}} and first["recipe"] == second["recipe"]
