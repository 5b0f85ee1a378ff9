"""First stage of knowledge adaptation: the autoencoder over the teacher's features."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from kaseg.distillation.student_with_adapters import teacher_output
from kaseg.distillation.terms import labels_at, weights_of_labels
from kaseg.trainer.base import last_complete_checkpoint
from kaseg.trainer.knowledge_adaptation_config import KnowledgeAdaptationConfig
from kaseg.trainer.stages import StageTrainer, stage_arguments


def autoencoder_arguments(args: KnowledgeAdaptationConfig, steps_per_epoch: int) -> KnowledgeAdaptationConfig:
    """Arguments of the first stage, in `output_dir/autoencoder`."""
    steps = max(math.ceil(args.autoencoder_epochs * steps_per_epoch), args.autoencoder_max_steps)
    optim, decay = args.autoencoder_optim, args.autoencoder_weight_decay
    return stage_arguments(args, "autoencoder", steps, optim, args.autoencoder_learning_rate, decay)


# Samples on whose maps the statistics are measured: each has thousands of positions (our choice).
_MEASURED = 16


class AutoencoderTrainer(StageTrainer):
    """Fits a [`FeatureAutoencoder`] to the tapped maps of a frozen teacher (one epoch in the paper)."""

    stage = "autoencoder"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._label_weights: torch.Tensor | None = None
        if self.args.autoencoder_class_weights:
            self._label_weights = weights_of_labels(self.args.class_weights).to(self.args.device)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """As in `TermTrainer`; the statistics of the teacher's maps are measured before the first step."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir)
        if not resume_from_checkpoint:  # a checkpoint holds them
            self.model.normalization.measure(self._some_maps())
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    @torch.no_grad()
    def _some_maps(self) -> Iterator[torch.Tensor]:
        """The teacher's maps of 16 training samples, spread evenly; the same in all processes."""
        data = self.train_dataset
        if hasattr(data, "__len__"):
            indices = range(0, len(data), max(1, len(data) // _MEASURED))
            samples: Iterator[Any] = (data[index] for index in itertools.islice(indices, _MEASURED))
        else:
            samples = itertools.islice(iter(data), _MEASURED)
        for sample in samples:
            inputs = {name: value.to(self.args.device) for name, value in self.data_collator([sample]).items()}
            yield teacher_output(self.teacher, inputs).features

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        features = teacher_output(self.teacher, inputs).features
        outputs = model(features)
        loss = outputs.loss
        self.add_term("reconstruction", outputs.reconstruction_loss)
        self.add_term("sparsity", outputs.sparsity_loss)
        if self.args.autoencoder_classifier_weight > 0:
            at_positions = self._classifier_divergence(features, outputs.reconstruction)
            if self._label_weights is not None:
                at_grid = labels_at(inputs["labels"], at_positions.shape[-2:])
                at_positions = at_positions * self._label_weights[at_grid.long()]
            # Not divided by the sum of weights, so that processes average to the whole batch's.
            divergence = at_positions.mean()
            self.add_term("classifier", divergence)
            loss = loss + self.args.autoencoder_classifier_weight * divergence
        return (loss, outputs) if return_outputs else loss

    def _classifier_divergence(self, features: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
        """Kullback-Leibler divergence (B, h, w) between the teacher's classes on its own map and on the reconstruction
        (B, c_t, h, w), in float32 (our choice)."""
        teacher = self.accelerator.unwrap_model(self.teacher)
        with torch.autocast(features.device.type, enabled=False):
            with torch.no_grad():
                expected = teacher.classify(features).float().log_softmax(1)
            found = teacher.classify(reconstruction).float().log_softmax(1)
        return F.kl_div(found, expected, log_target=True, reduction="none").sum(1)
