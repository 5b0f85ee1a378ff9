from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kaseg import checkpoints


def ship(root: Path, name: str, results: dict[str, Any] | None) -> None:
    folder = root / "hub_configs" / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"output_stride": 16}))
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
    for text in ("camvid validation", "16", "2.11 M", "5.50", "65.43", "CC-BY-NC-4.0"):
        assert text in row
    assert any("kaseg/unknown" in line for line in lines)


def test_nothing_ships(kaseg: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checkpoints, "PACKAGE_DIR", tmp_path)
    assert "No checkpoint ships" in kaseg.succeed("list").output
