"""The tables of results under docs/results/ and the script that adds runs to them."""

import importlib.util
import json
import re
import runpy
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

from kaseg.experiments.summary import paired_interval

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
CAMVID, VOC_ANIMALS = ROOT / "docs" / "camvid.md", ROOT / "docs" / "voc_animals.md"
FAMILIES = sorted(file.parent for file in RESULTS.glob("*/runs.csv"))


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def collect() -> Any:
    return load(RESULTS / "collect.py")


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


@pytest.fixture
def results(collect: Any) -> dict[str, Any]:
    return {
        **{key: 1 for key in (*collect.FACTS, *collect.SCORES, "seed")},
        "recipe": {"learning_rate": 0.5, "seed": 1},
        "versions": {"kaseg": "0.1.0", "torch": "2.15.0"},
        "per_category_iou": {"sky": 0.25},
        "log": [
            {"loss": 2.0, "distillation/affinity": 0.5, "learning_rate": 0.1, "epoch": 1.0},
            {"eval_mean_iou": 0.25, "eval_loss": 1.0, "epoch": 1.0},
            {"loss": 1.0, "distillation/affinity": 0.25, "weight/affinity": 3.0, "epoch": 2.0},
        ],
    }


def test_runs_are_added_once(collect: Any, results: dict[str, Any], tmp_path: Path) -> None:
    collect.add(tmp_path, {"os16/kd/seed-1": results})
    collect.add(tmp_path, {"os16/kd/seed-1": {**results, "mean_iou": 0.5}, "os16/a/seed-2": {**results, "seed": 2}})
    first, second = collect.read_rows(tmp_path)
    assert (first["run"], second["run"]) == ("os16/a/seed-2", "os16/kd/seed-1")
    assert second["mean_iou"] == "0.5" and second["iou_sky"] == "0.25"
    assert second["curve_loss"] == "1:2 2:1" and second["curve_affinity"] == "1:0.5 2:0.25"
    assert second["curve_eval_mean_iou"] == "1:0.25" and second["curve_weight_affinity"] == "2:3"
    # Runs that differ in the seed alone have one recipe.
    recipes = yaml.safe_load((tmp_path / "recipes.yaml").read_text())
    assert recipes == {first["recipe"]: {"learning_rate": 0.5}} and first["recipe"] == second["recipe"]


def test_a_row_without_its_recipe_is_found_when_the_next_is_written(collect, results, tmp_path: Path) -> None:
    first, second = "os16/kd/seed-1", "os16/plain/seed-1"
    collect.add(tmp_path, {first: results})
    before = (tmp_path / "runs.csv").read_text()
    (tmp_path / "recipes.yaml").write_text("")  # as where one of the two files was committed alone
    with pytest.raises(ValueError, match=f"recipes.yaml lacks the recipes of {first}: "):
        collect.add(tmp_path, {second: results | {"recipe": {"learning_rate": 0.1}}})
    assert (tmp_path / "runs.csv").read_text() == before
    collect.add(tmp_path, {first: results})
    # Its hash looks like a number, and must not become one.
    rate = next(
        rate for rate in range(10**4) if re.fullmatch("[1-9][0-9]{7}", collect.hash_of({"learning_rate": rate}))
    )
    collect.add(tmp_path, {second: results | {"recipe": {"learning_rate": rate}}})
    recipes = yaml.safe_load((tmp_path / "recipes.yaml").read_text())
    assert {recipe["learning_rate"] for recipe in recipes.values()} == {0.5, rate}
    # A run that was done again by another recipe does not leave the old one behind.
    collect.add(tmp_path, {first: results | {"recipe": {"learning_rate": 0.1}}})
    rows = collect.read_rows(tmp_path)
    assert len(rows) == 2 and {row["recipe"] for row in rows} == {
        *yaml.safe_load((tmp_path / "recipes.yaml").read_text())
    }


def test_runs_are_named_by_their_folders_wherever_one_stands(collect, tmp_path, monkeypatch):
    named: list[str] = []
    monkeypatch.setattr(collect, "add", lambda folder, results: named.extend(results))
    folder = tmp_path / "os16/plain/seed-1"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text("{}")
    monkeypatch.chdir(folder.parent)
    collect.main(str(tmp_path / "family"), "seed-1")
    assert named == ["os16/plain/seed-1"]


@pytest.mark.parametrize("script", sorted(RESULTS.rglob("*.py")), ids=lambda script: script.stem)
def test_help_does_nothing_but_help(script: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("usage: ")
    assert not list(tmp_path.iterdir())


def rows_of(heading: str, page: Path = CAMVID) -> list[list[str]]:
    """The cells of the tables in one section of a page, without the code marks."""
    section = page.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\|(?!-)(.*)\|$", section.replace("`", ""), re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def test_the_table_of_gains_is_what_its_script_prints(capsys: pytest.CaptureFixture[str]) -> None:
    load(RESULTS / "gains.py").main(RESULTS / "camvid")
    printed = capsys.readouterr().out.partition("\nos16\n")[2].partition("\nos32\n")[0]
    lines = re.findall(r"^\| (.*?) \| (.*) \|$", printed, re.MULTILINE)
    expected = {objective.replace(" the ", " "): rest.split(" | ") for objective, rest in lines[1:]}
    shown = {re.sub(r":.*| the| a(?= CPU)", "", objective): rest for objective, *rest in rows_of("With all masks")[1:]}
    assert len(shown) == len(expected) > 10
    for objective, cells in expected.items():
        assert " | ".join(shown[objective]).split() == " | ".join(cells).split(), objective


@pytest.mark.parametrize("column", ["mean_iou", "mean_iou_padded"])
def test_lists_of_scores_are_those_of_the_runs(collect: Any, column: str) -> None:
    text = CAMVID.read_text(encoding="utf-8")
    lists = [[float(n) for n in found.split(", ")] for found in re.findall(r"\d+\.\d(?:, \d+\.\d)+", text)]
    scores: dict[str, list[float]] = {}
    for row in collect.read_rows(RESULTS / "camvid"):
        family, _, _ = row["run"].rpartition("/seed-")
        if re.match(r"voc-os16/|os32-padded/|os16-16-labels/", family) and row[column]:
            scores.setdefault(family, []).append(100 * float(row[column]))
    several = {family: own for family, own in scores.items() if len(own) > 1}
    assert len(several) >= 2
    for family, own in several.items():
        # Rounded twice: in the table of the runs, and on the page.
        found = [own == pytest.approx(shown, abs=0.0501) for shown in lists if len(shown) == len(own)]
        assert any(found), f"{family}: {own}"


def scores_of(collect: Any, student: str) -> dict[str, dict[str, float]]:
    """Mean IoU in % of a student of VOC animals, by objective and seed."""
    scores: dict[str, dict[str, float]] = {}
    for row in collect.read_rows(RESULTS / "voc_animals"):
        family, objective, seed = row["run"].split("/")
        if family == student:
            scores.setdefault(objective, {})[seed.removeprefix("seed-")] = 100 * float(row["mean_iou"])
    return scores


def mean_and_interval(values: list[float]) -> str:
    low, high = paired_interval(values)  # type: ignore[misc]
    return f"{statistics.mean(values):+.1f} (95 % {low:+.1f} to {high:+.1f})"


@pytest.mark.parametrize(
    ("heading", "student"),
    [
        ("440 masks", "os16-440"),
        ("440 masks, stride 32", "os32-440"),
        ("All masks, 8,000 steps", "os16-8000"),
        ("440 masks, short runs", "os16-440-short"),
        ("A pilot of 500 steps", "os32-196-short"),
    ],
)
def test_pairs_of_voc_animals_are_those_of_the_runs(collect: Any, heading: str, student: str) -> None:
    scores = scores_of(collect, student)
    header, *rows = rows_of(heading, VOC_ANIMALS)
    columns = [column.partition(" (")[0] for column in header[1:-1]]
    assert set(columns) == set(scores) and columns[0] == "plain"
    distilled = scores[header[-1].partition("gain of ")[2].split(" ")[0] or columns[1]]
    gains = {seed: score - scores["plain"][seed] for seed, score in distilled.items()}
    for seed, *cells, gain in rows[:-1]:
        assert cells == [f"{scores[name][seed]:.1f}" if seed in scores[name] else "" for name in columns]
        assert gain == f"{gains[seed]:+.1f}"
    assert [row[0] for row in rows] == [*scores["plain"], "mean"]
    means = {
        name: f"{statistics.mean(own.values()):.1f} ± {statistics.stdev(own.values()):.1f}" if len(own) > 1 else ""
        for name, own in scores.items()
    }
    assert rows[-1][1:] == [*(means[name] for name in columns), mean_and_interval([*gains.values()])]


@pytest.mark.parametrize(
    ("heading", "student"),
    [
        ("All masks, 4,000 steps", "os16"),
        ("All masks, stride 32", "os32"),
        ("All masks, at the images' own size", "os16-own-size"),
    ],
)
def test_single_runs_of_voc_animals_are_those_of_the_table(collect: Any, heading: str, student: str) -> None:
    scores = scores_of(collect, student)
    plain = scores["plain"]["2"]
    expected = {name: [f"{own['2']:.1f}", f"{own['2'] - plain:+.1f}"] for name, own in scores.items()}
    shown = {name: cells for name, *cells in rows_of(heading, VOC_ANIMALS)[1:] if name in scores}
    assert shown == expected | {"plain": [f"{plain:.1f}", ""]}


def test_students_of_voc_animals_at_stride_8_are_those_of_the_runs(collect: Any) -> None:
    fine, students = scores_of(collect, "os8-440")["plain"], scores_of(collect, "os16-440")
    shown = {seed: cells for seed, *cells in rows_of("440 masks, against a student at stride 8", VOC_ANIMALS)[1:]}
    assert shown.keys() == fine.keys()
    for seed, cells in shown.items():
        scores = (fine[seed], students["plain"][seed], students["logits_4_adaptation"][seed])
        assert cells == [*(f"{score:.1f}" for score in scores), f"{scores[2] - scores[0]:+.1f}"]


@pytest.mark.parametrize(
    ("masks", "student", "objective"),
    [
        ("440 of 3,134", "os16-440", "logits_4_adaptation"),
        (r"stride 32.* \| 440 of 3,134", "os32-440", "logits_4_adaptation"),
        ("all 3,134", "os16-8000", "logits"),
    ],
)
def test_the_readme_shows_the_gains_of_the_runs(collect: Any, masks: str, student: str, objective: str) -> None:
    scores = scores_of(collect, student)
    gains = [score - scores["plain"][seed] for seed, score in scores[objective].items()]
    line = re.search(rf"^\| .*{masks} (\|.*)\|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert line is not None and re.findall(r"[+-]?\d+\.\d", line[1]) == [
        *(f"{statistics.mean(scores[name].values()):.1f}" for name in ("plain", objective)),
        *re.findall(r"[+-]\d+\.\d", mean_and_interval(gains)),
        "80.5",  # the teacher's, in hub_configs/voc-animals.yaml
    ]


@pytest.mark.parametrize(
    ("page", "count"), [(CAMVID, 3), (VOC_ANIMALS, 4)], ids=lambda value: getattr(value, "stem", "")
)
def test_what_ships_has_the_scores_of_its_results(page: Path, count: int) -> None:
    header, *rows = rows_of("What ships", page)
    assert len(rows) == count
    for name, *cells in rows:
        folder = ROOT / "hub_configs" / re.match(r"kaseg/([\w-]+)", name)[1]  # type: ignore[index]
        results = json.loads((folder / "results.json").read_text())
        expected = {"mIoU": results["mean_iou"], **results["per_category_iou"]}
        assert cells == [f"{100 * expected[column]:.1f}" for column in header[1:]], name
