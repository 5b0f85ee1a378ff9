import json
import sys
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def checkpoint(trained: tuple[Path, str]) -> Path:
    return trained[0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--dtype", "bf16"), "bf16 cannot be exported as onnx"),
        (("--dtype", "int8"), "give --dataset"),
        (("--dtype", "int8", "--dataset", "scenes", "--calibration-split", "validation"), "Give two splits"),
        (("--size", "32,32,32"), "--size takes one number of pixels or two"),
        (("--dataset", "scenes"), "--dataset would change nothing"),
        (("--max-loss", "1", "--calibration-samples", "8"), "--calibration-samples, --max-loss would change nothing"),
        (("--image-dtype", "float32"), "--image-dtype would change nothing"),
        (("--dtype", "int8", "--format", "openvino", "--calibration", "minmax"), "--calibration would change nothing"),
        (("--dtype", "int8", "--dataset", "camvid"), "The model's classes are not those of the dataset 'camvid'"),
    ],
)
def test_what_cannot_be_is_an_error(kaseg, checkpoint: Path, tmp_path: Path, arguments: tuple, message: str) -> None:
    assert message in kaseg.fail("export", checkpoint, "--output-dir", tmp_path / "out", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_export_prints_its_parity_is_scored_and_predicts(kaseg, checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    output = kaseg.succeed("export", checkpoint, "--output-dir", tmp_path / "out").output
    assert "2 x 256x320" in output and "1 x 257x319" in output and "100.00" in output
    scores = {}
    for model in (checkpoint, tmp_path / "out"):
        file = tmp_path / f"{model.name}.json"
        kaseg.succeed("evaluate", model, "--dataset", "scenes", "--max-samples", 1, "--json", file)
        scores[model.name] = json.loads(file.read_text())
    assert scores["out"]["mean_iou"] == pytest.approx(scores["student"]["mean_iou"], abs=1e-3)
    for key in ("parameters", "gflops_513x513"):
        assert scores["out"][key] == scores["student"][key] > 0
    Image.new("RGB", (65, 47), (90, 120, 60)).save(tmp_path / "x.png")
    kaseg.succeed("predict", tmp_path / "x.png", "--model", tmp_path / "out", "--output", tmp_path / "masks")
    assert Image.open(tmp_path / "masks" / "x_mask.png").size == (65, 47)
    record = tmp_path / "out" / "export.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "output": "mask"}))
    output = kaseg.fail("predict", tmp_path / "x.png", "--model", tmp_path / "out", "--output", tmp_path / "none")
    assert "this command needs logits" in output and not (tmp_path / "none").exists()


def test_a_missing_package_is_an_error_in_words(kaseg, checkpoint: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert 'pip install "kaseg[export]"' in kaseg.fail("export", checkpoint, "--output-dir", tmp_path / "out")
