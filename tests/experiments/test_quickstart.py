from __future__ import annotations

import json
import re

import pytest

from kaseg.experiments.quickstart import quickstart


@pytest.mark.slow
def test_the_whole_road_in_a_few_steps(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaseg.experiments.quickstart.SCENES_PER_SPLIT", {"train": 8, "validation": 2})
    rows = quickstart(tmp_path, steps=2)
    assert [row["name"] for row in rows] == ["teacher", "plain student", "adapted student"]
    assert json.loads((tmp_path / "results.json").read_text()) == rows
    teacher, plain, adapted = rows
    assert plain["parameters"] == adapted["parameters"] < teacher["parameters"]
    assert plain["gflops"] == adapted["gflops"] < teacher["gflops"]
    assert all(0 <= row["mean_iou"] <= 1 and row["milliseconds"] > 0 for row in rows)
    page = (tmp_path / "index.html").read_text()
    # Picture, label and three masks for each of two scenes, all inside the page.
    assert len(re.findall(r'<img src="data:image/png;base64,', page)) == 10
    assert "adapted student" in page and f"{100 * adapted['mean_iou']:.1f}" in page
