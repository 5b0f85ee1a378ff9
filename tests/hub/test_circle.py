"""The whole circle: train, push, load elsewhere, fine-tune, push again; and the way without kaseg."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import HubServer
from PIL import Image
from toy import arguments, make_dataset, make_model
from transformers import pipeline

from kaseg import KASegImageProcessor, KASegModel, SegmentationConfig, SegmentationTrainer


def logits_of(model: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    # Where tensors lie in memory, and how many threads share the work, decides the last bits of a convolution: every
    # process computes with one thread on copies, which torch aligns alike (a file that is mapped lies anywhere).
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    with torch.no_grad():
        logits = model.eval()(pixels.clone()).logits.clone()
    torch.set_num_threads(threads)
    return logits


LOGITS_OF = "import torch\n" + inspect.getsource(logits_of)

BLOCKED = """
import importlib.abc, sys
class NoKaseg(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("kaseg", "datasets", "evaluate"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NoKaseg())
"""

WITHOUT_KASEG = (
    BLOCKED
    + LOGITS_OF
    + """
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline
repo, expected = sys.argv[1:]
pixels, wanted = torch.load(expected)
model = AutoModelForSemanticSegmentation.from_pretrained(repo, trust_remote_code=True)
assert torch.equal(logits_of(model, pixels), wanted)
processor = AutoImageProcessor.from_pretrained(repo, trust_remote_code=True)
assert type(processor).__name__ == "KASegImageProcessor"
parts = pipeline("image-segmentation", model=repo, trust_remote_code=True)(Image.new("RGB", (40, 30)))
assert parts[0]["mask"].size == (40, 30)
assert not any(name == "kaseg" or name.startswith("kaseg.") for name in sys.modules)
try:
    AutoModelForSemanticSegmentation.from_pretrained(repo, trust_remote_code=False)
except ValueError as error:
    print("refused:", error)
"""
)


@pytest.mark.slow
def test_train_push_load_tune_push_and_load_both(kaseg, hub: HubServer, tmp_path: Path) -> None:
    trainer = SegmentationTrainer(
        make_model(),
        SegmentationConfig(**arguments(tmp_path / "student")),
        train_dataset=make_dataset(),
        processing_class=KASegImageProcessor(),
    )
    pixels = torch.randn(2, 3, 48, 40)
    logits = {}
    for revision, steps in ((None, 2), ("tuned", 4)):
        trainer.args.max_steps = steps
        trainer.train()
        trainer.push_to_hub(revision=revision)
        logits[revision or "main"] = logits_of(KASegModel.from_pretrained(tmp_path / "student"), pixels)
        assert torch.allclose(logits[revision or "main"], logits_of(trainer.model, pixels), atol=1e-6)
    assert not torch.equal(logits["main"], logits["tuned"])
    for revision, expected in logits.items():
        assert torch.equal(logits_of(KASegModel.from_pretrained("me/student", revision=revision), pixels), expected)
    assert KASegImageProcessor.from_pretrained("me/student").image_mean
    segmenter = pipeline("image-segmentation", model="me/student", trust_remote_code=False)
    assert segmenter(Image.new("RGB", (40, 30), (200, 10, 10)))[0]["mask"].size == (40, 30)
    # The same weights with code, for a process that has no kaseg.
    kaseg.succeed("push", tmp_path / "student", "me/with-code", "--with-code")
    torch.save((pixels, logits["tuned"]), tmp_path / "expected.pt")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", WITHOUT_KASEG, "me/with-code", str(tmp_path / "expected.pt")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert "refused:" in done.stdout, done.stderr
