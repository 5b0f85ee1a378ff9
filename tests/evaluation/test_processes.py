"""Two processes against one: nothing counted twice, nothing left out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import Jobs
from PIL import Image

from kaseg import KASegConfig, KASegImageProcessor, KASegModel
from kaseg.evaluation import InferenceProtocol, evaluate_model
from kaseg.evaluation.processes import Processes, local_device


def score(output: str) -> None:
    """One process of an evaluation; the main one writes what all have."""
    torch.manual_seed(0)
    model = KASegModel(KASegConfig(backbone="test_resnet", output_stride=32, num_labels=4, head_channels=16))
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    rng = np.random.default_rng(0)
    samples: list[dict[str, Any]] = []
    # Seven images of five sizes, so that the processes have different numbers of images and never one size at once.
    for index, (height, width) in enumerate([(33, 47), (64, 40), (33, 47), (50, 50), (21, 80), (33, 47), (40, 64)]):
        label = rng.integers(0, 4, (height, width), dtype=np.uint8)
        label[: height // 4] = 255
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        samples.append({"image": image, "label": Image.fromarray(label), "id": f"image-{index}"})
    results: list[dict[str, Any]] = []
    seen: list[int] = []
    for data in (samples, iter(samples), samples[:1]):
        protocol = InferenceProtocol("slide", 32, flip=True) if data is samples else InferenceProtocol()
        results.append(evaluate_model(model, data, KASegImageProcessor(), progress=seen.append, protocol=protocol))
    processes = Processes.join()
    everyone = processes.gather(json.dumps(results))
    if processes.is_main:
        assert all(result == everyone[0] for result in everyone), "the processes returned different scores"
        facts = {"processes": processes.count, "seen": sum(seen), "results": results}
        Path(output).write_text(json.dumps(facts))


@pytest.mark.slow
def test_two_processes_count_what_one_does(tmp_path: Path) -> None:
    jobs, runs = Jobs(__file__), []
    for processes in (1, 2):
        codes, printed = jobs.run("score", str(tmp_path / "scores.json"), processes=processes)
        assert codes == [0] * processes, printed
        runs.append(json.loads((tmp_path / "scores.json").read_text()))
    one, two = runs
    assert (one["processes"], two["processes"]) == (1, 2)
    assert (one["seen"], two["seen"]) == (15, 4 + 4 + 1)
    # Through JSON, so that NaN equals NaN: the matrix, the boundary scores, the table of images, everything.
    assert json.dumps(two["results"]) == json.dumps(one["results"])
    assert sorted(row["id"] for row in two["results"][0]["per_image"]) == [f"image-{index}" for index in range(7)]
    assert len(set(map(str, one["results"][0]["confusion_matrix"]))) == 4


def test_shares_are_disjoint_and_complete() -> None:
    for total in (0, 1, 5, 6):
        shares = [Processes(rank, 3).share(total) for rank in range(3)]
        assert sorted(index for share in shares for index in share) == list(range(total))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    alone = Processes.join()
    assert alone == Processes(0, 1) and alone.is_main and not Processes(1, 2).is_main
    assert list(alone.share(3)) == [0, 1, 2] and alone.gather("x") == ["x"]


def test_the_gpu_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_device() is None
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert local_device() == "cuda:3"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert local_device() is None
