"""A tiny task that trainers can be run on in a second, and what tests of several rooms make of such parts."""

import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import TrainerCallback

from kaseg import (
    KASegConfig,
    KASegModel,
    KnowledgeAdaptationConfig,
    KnowledgeAdaptationTrainer,
    SegmentationConfig,
    SegmentationTrainer,
)
from kaseg.distillation import FeatureAutoencoder, FeatureAutoencoderConfig

SIZE = 32
# Fields of a first stage of one step.
FIRST_STAGE = {"latent_channels": 8, "autoencoder_epochs": 0, "autoencoder_max_steps": 1}


def make_dataset(count: int = 12, seed: int = 0) -> datasets.Dataset:
    """Images of a bright square (1) on dark ground (0) with a strip of void, lazily decoded like real data."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        label = np.zeros((SIZE, SIZE), np.uint8)
        top, left = rng.integers(0, SIZE // 2, 2)
        label[top : top + SIZE // 2, left : left + SIZE // 2] = 1
        image = (label[..., None] * 120 + rng.integers(0, 100, (SIZE, SIZE, 3))).astype(np.uint8)
        # Very different amounts of void, so that averaging over micro-batches in the wrong way would show.
        label[: 1 + 2 * (index % 8)] = 255
        rows.append({"image": Image.fromarray(image), "label": Image.fromarray(label), "id": str(index)})
    return datasets.Dataset.from_list(rows)


def make_model(seed: int = 0, **kwargs) -> KASegModel:
    """A student of 32 head channels at stride 16, on timm's smallest convolutional encoder."""
    torch.manual_seed(seed)
    fields = {"backbone": "test_resnet", "output_stride": 16, "num_labels": 2, "head_channels": 32, **kwargs}
    return KASegModel(KASegConfig(**fields))


def make_teacher(seed: int = 7, **kwargs) -> KASegModel:
    """A stride-4 teacher with means that are not the initial ones."""
    teacher = make_model(seed, head="deeplabv3plus", skip_channels=8, **kwargs)
    for module in teacher.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
    return teacher


def vary_batch_norm(model: torch.nn.Module) -> torch.nn.Module:
    """The model with other statistics than the initial ones, so that forgetting or misfolding them would show."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
    return model


class ReadsTheLabel(torch.nn.Module):
    """Predicts what the red channel of an unnormalized image says, with certainty."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(()))
        self.config = SimpleNamespace(num_labels=len(names), id2label=dict(enumerate(names)))
        self.most_alive = 0
        self.outputs: list[weakref.ref] = []

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        labels = pixel_values[:, 0].mul(255).round().long()
        logits = 100 * torch.nn.functional.one_hot(labels, self.config.num_labels).movedim(-1, 1).float()
        self.outputs = [output for output in self.outputs if output() is not None]
        self.outputs.append(weakref.ref(logits))
        self.most_alive = max(self.most_alive, len(self.outputs))
        return SimpleNamespace(logits=logits)


def mask_of(model: Any, processor: Any, image: Image.Image) -> np.ndarray:
    """The mask of an image as transformers documents it: processor, model, post-processing."""
    with torch.inference_mode():
        outputs = model(**processor(image, return_tensors="pt"))
    return processor.post_process_semantic_segmentation(outputs, [(image.height, image.width)])[0].numpy()


def write_folder(
    root: Path, pairs: Iterable, classes: Iterable[str] = (), name: str = "{}", suffix: str = "png"
) -> Path:
    """Images and their masks, PIL's or arrays, as a dataset of one's own: images/0.png, masks/0.png, classes.txt."""
    for index, pair in enumerate(pairs):
        for kind, pixels, end in zip(("images", "masks"), pair, (suffix, "png"), strict=True):
            (root / kind).mkdir(parents=True, exist_ok=True)
            image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
            image.save(root / kind / f"{name.format(index)}.{end}")
    if classes:
        (root / "classes.txt").write_text("\n".join(classes), encoding="utf-8")
    return root


def write_clip(path: Path, frames: Sequence[np.ndarray], codec: str = "mpeg4", rate: int = 10) -> None:
    """A video of frames (height, width, 3)."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def arguments(output_dir, **kwargs) -> dict:
    """Keyword arguments that keep a run small and silent."""
    return {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 4,
        "max_steps": 4,
        "crop_size": [SIZE, SIZE],
        "learning_rate": 0.01,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "use_cpu": True,
        **kwargs,
    }


def make_autoencoder(**kwargs) -> FeatureAutoencoder:
    """One for these teachers' maps, always the same."""
    torch.manual_seed(0)
    return FeatureAutoencoder(FeatureAutoencoderConfig(**{"in_channels": 32, "latent_channels": 8, **kwargs}))


def seg_trainer(output_dir, model=None, train=None, evaluation=None, more=None, **fields) -> SegmentationTrainer:
    """A trainer on the labels alone; `fields` are those of its arguments, `more` are its own."""
    return SegmentationTrainer(
        model=model or make_model(),
        args=SegmentationConfig(**arguments(output_dir, **fields)),
        train_dataset=train or make_dataset(),
        eval_dataset=evaluation or make_dataset(3, seed=1),
        **(more or {}),
    )


def ka_trainer(
    output_dir, model=None, teacher=None, autoencoder=None, unlabelled=None, train=None, **fields
) -> KnowledgeAdaptationTrainer:
    """A trainer with a teacher, whose first stage is short."""
    return KnowledgeAdaptationTrainer(
        model=model or make_model(),
        teacher=teacher or make_teacher(),
        args=KnowledgeAdaptationConfig(
            **arguments(output_dir, **{**FIRST_STAGE, "autoencoder_max_steps": 3, **fields})
        ),
        autoencoder=autoencoder,
        train_dataset=train or make_dataset(),
        eval_dataset=make_dataset(3, seed=1),
        unlabelled_dataset=unlabelled,
    )


def make_steady_model() -> KASegModel:
    """A student without dropout and with fixed BatchNorm, to which it is one how images are split into batches."""
    return make_model(freeze_batch_norm=True, classifier_dropout_prob=0.0)


def split(batch: int, accumulation: int) -> dict:
    """Fields of steps of `batch * accumulation` images."""
    return {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}


# Fields of a run that ends with the best of its checkpoints, of which there is one per step.
BEST = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": False}
BEST |= {"save_strategy": "steps", "save_steps": 1, "save_total_limit": None, "eval_strategy": "steps", "eval_steps": 1}
# Fields that leave the paper's terms out.
ALONE = {"adaptation_weight": 0.0, "affinity_weight": 0.0}


class Stop(TrainerCallback):
    """Breaks a run off after a step, as if its process had died."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def logged_steps(trainer) -> list[dict]:
    """The entries of the log that hold a training loss."""
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def states_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def copy_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


# What a finished run writes of itself.
RESULTS: dict = {
    "dataset": "camvid",
    "split": "validation",
    "protocol": "whole image",
    "mean_iou": 0.61254,
    "mean_accuracy": 0.7,
    "overall_accuracy": 0.9,
    "per_category_iou": {"sky": 0.9},
    "seed": 3,
    "steps": 10,
    "epochs": 2.0,
    "train_seconds": 60.0,
    "train_seconds_from_step": 0,
    "hardware": "CPU, 1 threads",
    "versions": {"torch": "2.15"},
    "latency": {
        "milliseconds": 12.3,
        "height": 513,
        "width": 513,
        "dtype": "float32",
        "repeats": 5,
        "hardware": "a slow CPU",
    },
    "parameters": 2_110_000,
    "gflops_513x513": 5.48,
}
