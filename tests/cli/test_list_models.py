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
    for text in ("camvid", "16", "2.11", "5.50", "65.43 val", "CC-BY-NC-4.0"):
        assert text in row
    assert any("kaseg/unknown" in line for line in lines)


FAMILY = """
recipe: {dataset: voc2012, backbone: mobilenetv2_035}
teacher: {output_stride: 32}
students: {os32: {output_stride: 32}, borrowed: {encoder_from: google/other}}
objectives: {plain: }
"""


def test_what_is_not_trained_yet_comes_last(kaseg: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ship(tmp_path, "z-shipped", None)
    (tmp_path / "hub_configs/a-family.yaml").write_text(FAMILY)
    monkeypatch.setattr(checkpoints, "PACKAGE_DIR", tmp_path)
    short = kaseg.succeed("list").output
    assert "kaseg/z-shipped" in short and "without weights (a-family)" in short and "os32" not in short
    rows = kaseg.succeed("list", "--all").output.splitlines()
    rows = [line for line in rows if "kaseg/" in line or "a-family.yaml:" in line]
    assert [row.split()[:2] for row in rows[1:]] == [
        ["a-family.yaml:", name] for name in ("teacher", "os32", "borrowed")
    ]
    assert "kaseg/z-shipped" in rows[0]
    for text in ("voc2012", " 32 ", "0.45", "–", "Flickr terms of use"):
        assert text in rows[2]
    assert "0.45" not in rows[3]  # the encoder is another checkpoint's, which is not at hand


def test_every_folder_of_this_version_is_listed(kaseg: Any) -> None:
    output = kaseg.succeed("list").output
    assert all(f"kaseg/{folder.name} " in output for folder in checkpoints._root().iterdir() if folder.is_dir())


def test_nothing_ships(kaseg: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checkpoints, "PACKAGE_DIR", tmp_path)
    assert "No checkpoint ships" in kaseg.succeed("list").output
