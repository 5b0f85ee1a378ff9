"""The warm-up of the adapters: they are fitted alone, before the student's schedule begins."""

import copy
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from kaseg.distillation.autoencoder import FeatureAutoencoder
from kaseg.distillation.student_with_adapters import StudentWithAdapters, teacher_maps
from kaseg.trainer.knowledge_adaptation_config import KnowledgeAdaptationConfig
from kaseg.trainer.stages import StageTrainer, stage_arguments

ADAPTERS_NAME = "adapters.safetensors"


def adapter_arguments(args: KnowledgeAdaptationConfig) -> KnowledgeAdaptationConfig:
    """Arguments of the warm-up, in `output_dir/adapters`."""
    optim, learning_rate = args.adapter_warmup_optim, args.adapter_warmup_learning_rate
    return stage_arguments(args, "adapters", args.adapter_warmup_steps, optim, learning_rate, args.weight_decay)


def save_adapters(composite: StudentWithAdapters, folder: str | Path) -> None:
    """Write the adapters, and what the balance and the losses have measured, to a folder."""
    save_file(composite.adapter_state_dict(), os.path.join(folder, ADAPTERS_NAME))


def load_adapters(composite: StudentWithAdapters, folder: str | Path) -> None:
    """Read what [`save_adapters`] has written; a ValueError if it is of a run with other terms."""
    missing, unexpected = composite.load_state_dict(load_file(os.path.join(folder, ADAPTERS_NAME)), strict=False)
    missing = [name for name in missing if not name.startswith("student.")]
    if missing or unexpected:
        raise ValueError(
            f"{folder}/{ADAPTERS_NAME} does not fit this run: missing {missing}, unexpected {unexpected}. Resume with "
            "the weights and latent_channels that the run was started with."
        )


class AdapterTrainer(StageTrainer):
    """Fits the adapters of the terms to a student that does not learn: `L = sum over terms of L_k`, not weighted.

    Heo et al. 2019 ("A Comprehensive Overhaul of Feature Distillation") train the connectors alone for the first epoch
    of segmentation in their code. What follows is our choice. Every adapter learns from its own term alone, so weights
    do not matter here, and terms without an adapter (those on logits) have no part. The maps are those that training
    will see: of a copy of the student in training mode, whose BatchNorm takes the statistics of the batch, as those
    that a new head has gathered mean nothing yet. The student itself stays bit-equal, BatchNorm statistics included.
    """

    stage = "adapters"

    def __init__(
        self,
        composite: StudentWithAdapters,
        teacher: nn.Module,
        autoencoder: FeatureAutoencoder | None,
        args: KnowledgeAdaptationConfig,
        train_dataset: Any = None,
        data_collator: Any = None,
    ) -> None:
        model = StudentWithAdapters(
            copy.deepcopy(composite.student).requires_grad_(False),
            composite.adapted_terms,
            composite.tap,
            composite.known_classes,
        )
        super().__init__(model, teacher, args, train_dataset, data_collator)
        self.autoencoder = autoencoder

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        with self.accelerator.autocast():
            maps = teacher_maps(self.teacher, self.autoencoder, self.model.sources, inputs)
        outputs = model(pixel_values=inputs["pixel_values"], teacher=maps, labels=inputs.get("labels"))
        for name, value in outputs.terms.items():
            self.add_term(name, value)
        loss = torch.stack([value.float() for value in outputs.terms.values()]).sum()
        return (loss, outputs) if return_outputs else loss

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        folder = output_dir or self.args.output_dir
        os.makedirs(folder, exist_ok=True)
        save_adapters(self.model, folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_adapters(self.model, resume_from_checkpoint)
