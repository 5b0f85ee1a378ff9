import dataclasses
import json
import re

import pytest
import yaml

from kaseg.experiments.comparison import ADAPTED_PARTS
from kaseg.experiments.quickstart import COMMANDS, _gain, quickstart


@pytest.mark.slow
def test_the_whole_road_in_a_few_steps(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("kaseg.experiments.quickstart.SCENES_PER_SPLIT", {"train": 10, "validation": 2})
    rows = quickstart(tmp_path, steps=1, pairs=2)
    # A command that is broken at the edge of the window cannot be copied.
    assert COMMANDS in capsys.readouterr().out
    assert [row["name"] for row in rows] == ["teacher", "plain student", "distilled student"]
    assert json.loads((tmp_path / "results.json").read_text()) == rows
    teacher, plain, distilled = rows
    assert plain["parameters"] == distilled["parameters"] < teacher["parameters"]
    assert plain["gflops"] == distilled["gflops"] < teacher["gflops"]
    assert all(0 <= row["mean_iou"] <= 1 and row["milliseconds"] > 0 for row in rows)
    assert len(teacher["mean_ious"]) == 1 and len(plain["mean_ious"]) == len(distilled["mean_ious"]) == 2
    assert plain["mean_iou"] == pytest.approx(sum(plain["mean_ious"]) / 2)
    page = (tmp_path / "index.html").read_text()
    # Image, label and three masks for each of two scenes, all inside the page.
    assert len(re.findall(r'<img src="data:image/png;base64,', page)) == 10
    assert "distilled student" in page and f"{100 * distilled['mean_iou']:.1f}" in page
    # What the page tells the reader to type exists.
    recipes = {
        name: yaml.safe_load((tmp_path / name / "recipe.yaml").read_text()) for name in ("plain-0", "distilled-1")
    }
    assert recipes["plain-0"]["max_labelled_samples"] == recipes["distilled-1"]["max_labelled_samples"] == 8
    assert "on average over 2 pairs" in page and "kaseg distill --dataset data" in page
    # Nothing is done twice.
    assert quickstart(tmp_path, steps=1, pairs=2)[2]["mean_ious"] == distilled["mean_ious"]


def test_the_gain_is_that_of_pairs() -> None:
    rows = [
        {"name": "plain student", "mean_ious": [0.30, 0.40]},
        {"name": "distilled student", "mean_ious": [0.35, 0.39]},
    ]
    assert _gain(rows) == "Gain of the teacher: +2.0 mIoU on average over 2 pairs (standard deviation 4.2, worst -1.0)."
    one = [{**row, "mean_ious": row["mean_ious"][:1]} for row in rows]
    assert _gain(one) == "Gain of the teacher: +5.0 mIoU (one pair; --pairs 3 gives a spread)."


def test_the_commands_on_the_page_are_commands_of_kaseg() -> None:
    lines = [line.split() for line in COMMANDS.splitlines() if not line.startswith("#")]
    assert [line[:2] for line in lines] == [["kaseg", "train"], ["kaseg", "train"], ["kaseg", "distill"]]
    fields = {item.name for part in ADAPTED_PARTS for item in dataclasses.fields(part)}
    options = {word.removeprefix("--").replace("-", "_") for line in lines for word in line if word.startswith("--")}
    assert options and options <= fields
