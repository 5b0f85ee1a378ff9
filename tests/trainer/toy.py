"""A tiny task that trainers can be run on in a second."""

from __future__ import annotations

import datasets
import numpy as np
import torch
from PIL import Image

from kaseg import KASegConfig, KASegModel

SIZE = 32


def make_dataset(count: int = 12, seed: int = 0) -> datasets.Dataset:
    """Pictures of a bright square (1) on dark ground (0) with a strip of void, lazily decoded like real data."""
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
    """A student of 32 head channels at stride 16."""
    torch.manual_seed(seed)
    fields = {"backbone": "mobilenetv2_035", "output_stride": 16, "num_labels": 2, "head_channels": 32, **kwargs}
    return KASegModel(KASegConfig(**fields))


def make_teacher(seed: int = 7, **kwargs) -> KASegModel:
    """A stride-4 teacher with statistics that are not the initial ones."""
    teacher = make_model(seed, head="deeplabv3plus", skip_channels=8, **kwargs)
    for module in teacher.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
    return teacher


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


def states_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def copy_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
