"""Adds finished runs to the table of a family: a row per run in `runs.csv`, its recipe in `recipes.yaml`.

    python docs/results/collect.py docs/results/camvid runs/camvid/os16/*/seed-*

A run that the table has already is written anew. `recipes.yaml` holds each recipe once, without its seed, under the
hash that the rows name; written to a file of its own, it is what `kaseg train --config` or `kaseg distill --config`
takes.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import yaml

RUNS, RECIPES = "runs.csv", "recipes.yaml"
FACTS = ("dataset", "split", "protocol", "hardware", "steps", "epochs", "train_seconds", "parameters", "gflops_513x513")
SCORES = ("mean_iou", "mean_accuracy", "overall_accuracy", "loss")
# Of the training log, from first to last, each value behind its epoch.
CURVES = ("loss", "eval_mean_iou", "distillation/", "weight/")


def row_of(run: str, results: dict[str, Any], recipe: str) -> dict[str, Any]:
    """The row of a run: its name, seed, recipe's hash, facts, versions, scores, IoU per class and curves."""
    row = {"run": run, "seed": results["seed"], "recipe": recipe} | {key: results.get(key) for key in FACTS}
    row |= {key: results["versions"].get(key) for key in ("kaseg", "torch")}
    row |= {key: round(results[key], 5) for key in SCORES}
    row |= {f"iou_{name}": round(value, 5) for name, value in results["per_category_iou"].items()}
    curves: dict[str, dict[str, str]] = {}
    for entry in results["log"]:
        for key in entry:
            if key.startswith(CURVES):
                curve = curves.setdefault(f"curve_{key.removeprefix('distillation/').replace('/', '_')}", {})
                curve[f"{entry['epoch']:.5g}"] = f"{entry[key]:.5g}"
    return row | {key: " ".join(f"{at}:{value}" for at, value in curve.items()) for key, curve in curves.items()}


def hash_of(recipe: dict[str, Any]) -> str:
    """Eight hexadecimal digits that stand for a recipe."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:8]


def read_rows(folder: Path) -> list[dict[str, str]]:
    """The rows of a family's table; none if there is no table yet."""
    if not (folder / RUNS).is_file():
        return []
    with open(folder / RUNS, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def add(folder: Path, results_of: dict[str, dict[str, Any]]) -> None:
    """Write the results of runs, by name, into the family's two files; recipes that no row names any more are dropped.

    Raises:
        ValueError: a row that is there names a recipe that `recipes.yaml` lacks.
    """
    rows: dict[str, dict[str, Any]] = {row["run"]: row for row in read_rows(folder)}
    recipes_file = folder / RECIPES
    recipes = (yaml.safe_load(recipes_file.read_text()) if recipes_file.is_file() else None) or {}
    for run, results in results_of.items():
        recipe = {key: value for key, value in results["recipe"].items() if key != "seed"}
        recipes[hash_of(recipe)] = recipe
        rows[run] = rows.get(run, {}) | row_of(run, results, hash_of(recipe))
    named = {run: row["recipe"] for run, row in rows.items()}
    if missing := sorted(run for run, recipe in named.items() if recipe not in recipes):
        raise ValueError(
            f"{recipes_file} lacks the recipes of {', '.join(missing)}: bring it back to what {folder / RUNS} was "
            "written with, or add these runs again."
        )
    # Quoted: some hashes look like numbers. Written first: a row must not be without its recipe.
    lines = (
        f'"{key}": {yaml.safe_dump(recipes[key], width=10**6, default_flow_style=True)}'
        for key in sorted(set(named.values()))
    )
    recipes_file.write_text("".join(lines), encoding="utf-8")
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    columns.sort(key=lambda column: column.startswith("curve_"))
    with open(folder / RUNS, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[run] for run in sorted(rows, key=lambda run: run.replace("/", "-")))


def main(family: str, *folders: str) -> None:
    """Adds the runs in `folders`, each named by the last three parts of its path: student/objective/seed."""
    results = {
        "/".join(Path(os.path.abspath(folder)).parts[-3:]): json.loads((Path(folder) / "results.json").read_text())
        for folder in folders
    }
    Path(family).mkdir(parents=True, exist_ok=True)
    add(Path(family), results)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", help="folder of the table")
    parser.add_argument("runs", nargs="+", help="folders of finished runs")
    given = parser.parse_args()
    main(given.family, *given.runs)
