import json
from pathlib import Path

import pytest
import torch

from kaseg import KASegConfig
from kaseg.benchmark import benchmark, to_markdown
from kaseg.benchmark.models import Logits
from kaseg.benchmark.plots import accuracy_against_cost

OURS = "kaseg:backbone=mobilenetv2_035,output_stride=32"
PEER = "torchvision:lraspp_mobilenet_v3_large"


def test_rows_and_table() -> None:
    report = benchmark([OURS, PEER], ["eager", "fused"], [(64, 64), (96, 64)], repeats=2, memory=False)
    assert [(row["model"], row["engine"], row["height"]) for row in report["rows"]] == [
        (model, engine, height) for height in (64, 96) for model in (OURS, PEER) for engine in ("eager", "fused")
    ]
    for row in report["rows"]:
        assert row["gflops"] > 0 and row["parameters"] > 1e5
        if (row["model"], row["engine"]) == (PEER, "fused"):
            assert "only our models" in row["reason"] and "median_ms" not in row
        else:
            assert 0 < row["median_ms"] <= row["p90_ms"]
    assert report["rows"][0]["gflops"] < report["rows"][4]["gflops"]
    table = to_markdown(report)
    assert table.count(f"| {OURS} |") == 4 and table.count(f"| {PEER} |") == 2
    assert f"- {PEER}, fused: only our models" in table
    json.dumps(report)


def test_a_size_that_a_model_does_not_take_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaseg.benchmark.run.build_model", lambda spec: Logits(torch.nn.AvgPool2d(99)))
    with pytest.raises(ValueError, match=r"pool does not take images of 65x64"):
        benchmark(["pool"], ["eager"], [(65, 64)], repeats=1, memory=False)


def test_the_hardware_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index=0: "a GPU")
    report = benchmark([], ["eager"], [(64, 64)], repeats=1, memory=False)
    assert report["hardware"].startswith("CPU, ") and "GPU" not in to_markdown(report)


def test_plots_need_results(tmp_path: Path) -> None:
    for name, score in (("a", 0.6), ("b", 0.5)):
        KASegConfig(backbone="mobilenetv2_035").save_pretrained(tmp_path / name)
        (tmp_path / name / "results.json").write_text(json.dumps({"mean_iou": score}))
    row = {"height": 64, "width": 64, "parameters": 1, "gflops": 2.0, "median_ms": 3.0, "p90_ms": 4.0}
    rows = [{"model": str(tmp_path / name), "engine": "eager", **row} for name in "ab"]
    for against, at in (("latency", 3.0), ("gflops", 2.0)):
        (axes,) = accuracy_against_cost({"rows": rows}, against).axes  # type: ignore[arg-type]
        (line,) = axes.lines
        assert list(line.get_xdata()) == [at, at] and list(line.get_ydata()) == [60.0, 50.0]
    with pytest.raises(ValueError, match="results.json"):
        accuracy_against_cost({"rows": [{"model": OURS, "engine": "eager", **row}]})
