from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kaseg import checkpoints


def ship(root: Path, name: str, results: dict[str, Any] | None, trained: bool = True) -> None:
    folder = root / "hub_configs" / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"output_stride": 16}))
    if trained:
        (folder / "model.safetensors").touch()
    if results is not None:
        (folder / "results.json").write_text(json.dumps(results))


def test_lists_what_ships(kaseg: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    results = {
        "dataset": "camvid",
        "split": "validation",
        "mean_iou": 0.6543,
        "parameters": 2_110_000,
        "gflops_513x513": 5.499,
        "license": "CC-BY-NC-4.0",
    }
    ship(tmp_path, "student-ka", results)
    ship(tmp_path, "unknown", None)
    monkeypatch.setattr(checkpoints, "PACKAGE_DIR", tmp_path)
    lines = kaseg.succeed("list").output.splitlines()
    row = next(line for line in lines if "kaseg/student-ka" in line)
    for text in ("camvid", "16", "2.11", "5.50", "65.43 val", "CC-BY-NC-4.0"):
        assert text in row
    assert any("kaseg/unknown" in line for line in lines)


def test_what_is_not_trained_yet_comes_last(kaseg: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cost = {"dataset": "voc2012", "parameters": 2_113_557, "gflops_513x513": 5.481, "license": "some terms"}
    ship(tmp_path, "a-planned", cost, trained=False)
    ship(tmp_path, "b-shipped", None)
    monkeypatch.setattr(checkpoints, "PACKAGE_DIR", tmp_path)
    short = kaseg.succeed("list").output
    assert "kaseg/b-shipped" in short and "a-planned" not in short and "1 more have a recipe" in short
    rows = [line for line in kaseg.succeed("list", "--all").output.splitlines() if "kaseg/" in line]
    assert "kaseg/b-shipped" in rows[0] and "kaseg/a-planned" in rows[1] and len(rows) == 2
    for text in ("voc2012", "2.11", "5.48", "–", "some terms"):
        assert text in rows[1]


def test_every_folder_of_this_version_is_listed(kaseg: Any) -> None:
    output = kaseg.succeed("list", "--all").output
    assert all(f"kaseg/{folder.name} " in output for folder in checkpoints._root().iterdir() if folder.is_dir())


def test_nothing_ships(kaseg: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checkpoints, "PACKAGE_DIR", tmp_path)
    assert "No checkpoint ships" in kaseg.succeed("list").output
