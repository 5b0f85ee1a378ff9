import json
from pathlib import Path
from typing import Any

MODEL = "kaseg:backbone=mobilenetv2_035,output_stride=32"


def test_table_json_and_markdown(kaseg: Any, tmp_path: Path) -> None:
    files = ("--json", tmp_path / "new/x.json", "--markdown", tmp_path / "x.md")
    result = kaseg.succeed(
        "benchmark", MODEL, "--engine", "eager", "--size", "64x96", "--repeats", 1, "--no-memory", *files
    )
    assert f"| {MODEL} | eager | 64x96 |" in result.output
    assert (tmp_path / "x.md").read_text() in result.output
    (row,) = json.loads((tmp_path / "new/x.json").read_text())["rows"]
    assert (row["height"], row["width"]) == (64, 96)


def test_mistakes(kaseg: Any, tmp_path: Path) -> None:
    assert kaseg("benchmark", MODEL, "--size", "64").exit_code == 2
    assert "no engine 'fast'" in kaseg.fail("benchmark", MODEL, "--engine", "fast", "--no-memory")
    for option in ("--json", "--markdown", "--plot"):
        assert f"{tmp_path} is a folder" in kaseg.fail("benchmark", MODEL, "--engine", "fast", option, tmp_path)
    assert "--plot: no model has a results.json" in kaseg.fail(
        "benchmark", MODEL, "--engine", "fast", "--plot", tmp_path / "plot.png"
    )
