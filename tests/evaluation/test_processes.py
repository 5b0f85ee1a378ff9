"""Two processes against one: nothing counted twice, nothing left out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kaseg.evaluation.processes import Processes, local_device

# Seven images of five sizes, so that the processes have different numbers of images and never the same size at once.
SCRIPT = """
import json, sys
import numpy as np, torch
from PIL import Image
from kaseg import KASegConfig, KASegImageProcessor, KASegModel
from kaseg.evaluation import InferenceProtocol, evaluate_model
from kaseg.evaluation.processes import Processes

torch.set_num_threads(1)
torch.manual_seed(0)
model = KASegModel(KASegConfig(backbone="mobilenetv2_035", output_stride=32, num_labels=4, head_channels=16))
torch.nn.init.normal_(model.classifier.weight, std=1.0)
rng = np.random.default_rng(0)
samples = []
for index, (height, width) in enumerate([(33, 47), (64, 40), (33, 47), (50, 50), (21, 80), (33, 47), (40, 64)]):
    label = rng.integers(0, 4, (height, width), dtype=np.uint8)
    label[: height // 4] = 255
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    samples.append({"image": image, "label": Image.fromarray(label), "id": f"image-{index}"})
results, seen = [], []
for data in (samples, iter(samples), samples[:1]):
    protocol = InferenceProtocol("slide", 32, flip=True) if data is samples else InferenceProtocol()
    results.append(evaluate_model(model, data, KASegImageProcessor(), progress=seen.append, protocol=protocol))
processes = Processes.join()
everyone = processes.gather(json.dumps(results))
if processes.is_main:
    assert all(result == everyone[0] for result in everyone), "the processes returned different scores"
    with open(sys.argv[1], "w") as file:
        json.dump({"processes": processes.count, "seen": sum(seen), "results": results}, file)
"""


def run(script: Path, processes: int, output: Path) -> dict:
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"] if processes > 1 else []
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(script), str(output)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(output.read_text())


@pytest.mark.slow
def test_two_processes_count_what_one_does(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    one, two = (run(script, count, tmp_path / f"{count}.json") for count in (1, 2))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert (one["seen"], two["seen"]) == (15, 4 + 4 + 1)
    # Through JSON, so that NaN equals NaN: the matrix, the boundary scores, the table of images, everything.
    assert json.dumps(two["results"]) == json.dumps(one["results"])
    assert sorted(row["id"] for row in two["results"][0]["per_image"]) == [f"image-{index}" for index in range(7)]
    assert len(set(map(str, one["results"][0]["confusion_matrix"]))) == 4


def test_alone() -> None:
    alone = Processes.join()
    assert alone == Processes(0, 1) and alone.is_main
    assert list(alone.share(3)) == [0, 1, 2] and alone.gather("x") == ["x"]
    assert local_device() is None


def test_shares_are_disjoint_and_complete() -> None:
    for total in (0, 1, 5, 6):
        shares = [Processes(rank, 3).share(total) for rank in range(3)]
        assert sorted(index for share in shares for index in share) == list(range(total))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert not Processes(1, 2).is_main


def test_the_gpu_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert local_device() == "cuda:3"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert local_device() is None
