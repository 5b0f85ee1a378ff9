"""All engines compute the same network."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from kaseg.benchmark.engines import ENGINES, EngineUnavailable, open_engine
from kaseg.benchmark.models import Logits, build_model

SIZE = (64, 96)
OURS = "kaseg:backbone=test_resnet,output_stride=16"
NEEDS = {"onnxruntime": "onnxruntime", "openvino": "openvino", "int8": "nncf"}


@pytest.fixture(scope="module")
def model() -> Logits:
    network = build_model(OURS, num_labels=5)
    network.model.classifier.weight.mul_(50)
    return network


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OpenVINO reads the file that was written for ONNX Runtime."""
    return tmp_path_factory.mktemp("engines")


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "compile"])
def test_engines_agree_with_eager(engine: str, model: Logits, folder: Path) -> None:
    if engine in NEEDS:
        pytest.importorskip(NEEDS[engine])
        pytest.importorskip("onnxscript")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pixels = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, *SIZE), np.float32))
    with torch.inference_mode():
        expected = model(pixels).numpy()
    found = open_engine(engine, model, SIZE, folder, threads=1)()
    if not isinstance(found, torch.Tensor):
        found = torch.from_numpy(np.array(found[0]))
    error = np.abs(found.float().numpy() - expected).max() / np.abs(expected).max()
    assert error < {"bf16": 0.1, "int8": 0.5}.get(engine, 1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_many_models_are_all_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    used: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable:
        def run(*args: torch.Tensor) -> object:
            used.append("compiled")
            return graph(*args)

        return run

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    networks = [Logits(torch.nn.Conv2d(3, 1 + classes, 1)) for classes in range(10)]  # dynamo's own limit is 8
    runs = [open_engine("compile", network, size, tmp_path, 1) for network in networks for size in (SIZE, (32, 32))]
    used.clear()
    for run in runs:
        run()
    assert len(used) == len(runs)
    torch._dynamo.reset()


def test_what_an_engine_cannot_do_is_told(tmp_path: Path) -> None:
    class TooSmall(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            raise AssertionError("takes multiples of 32\nand more")

    with pytest.raises(EngineUnavailable, match=r"^takes multiples of 32$"):
        open_engine("eager", Logits(TooSmall()), SIZE, tmp_path, 1)


def test_what_is_missing_is_told(model: Logits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="there are eager, fused"):
        open_engine("fast", model, SIZE, tmp_path, 1)
    with pytest.raises(EngineUnavailable, match="only our models"):
        open_engine("fused", Logits(torch.nn.Identity()), SIZE, tmp_path, 1)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EngineUnavailable, match="onnx"):
        open_engine("onnxruntime", model, SIZE, tmp_path, 1)
