"""The loss of a step of distillation: that of the labels and the weighted terms."""

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from kaseg.distillation.autoencoder import FeatureAutoencoder
from kaseg.distillation.balance import squared_norms
from kaseg.distillation.correction import corrected_logits
from kaseg.distillation.student_with_adapters import teacher_maps
from kaseg.masks import argmax_resized
from kaseg.trainer.segmentation_trainer import SegmentationTrainer


class DistillationStep(SegmentationTrainer):
    """Trains a student with its adapters: `L = L_ce + sum over terms of w_k * L_k`.

    Each term is a mean over all micro-batches and processes of a step, and so are the gradients that weights of
    `"auto"` are set from.
    """

    teacher: Any
    autoencoder: FeatureAutoencoder | None
    _unlabelled: Any

    def _begin_steps(self) -> None:
        self._step_counts: dict[str, torch.Tensor] = {}
        self._squared_norms: torch.Tensor | None = None  # of the gradients of a step that is measured
        self._weights: dict[str, torch.Tensor] = {}  # of the terms in the last step, where they are set

    @property
    def distillation_factor(self) -> float:
        """Factor on the terms' weights at the step under way, 1 at the first and, unless constant, 0 after the last."""
        if self.args.distillation_schedule == "constant":
            return 1.0
        done = self.state.global_step / max(1, self.state.max_steps)
        return 1.0 - done if self.args.distillation_schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        images = inputs["pixel_values"]
        with self.accelerator.autocast():
            maps = teacher_maps(self.teacher, self.autoencoder, self.model.sources, inputs)
        if self.args.correct_teacher:
            maps["logits"] = corrected_logits(maps["logits"], inputs["labels"], self.model.known_classes)
        labels = inputs["labels"] if any(term.needs_labels for term in self.model.terms.values()) else None
        measures = self._measures(model)
        with self.model.recorded_map() if measures else nullcontext([]) as tapped:
            # A compiled network hides its maps from autograd.
            network = getattr(model, "_orig_mod", model) if measures else model
            outputs = network(pixel_values=images, teacher=maps, labels=labels)
        loss = self.label_loss(outputs.logits, inputs["labels"], num_items_in_batch)
        self.add_term(self.args.loss, loss * self.accumulation_steps)
        fractions = self._fractions_of_step(inputs["labels"])
        parts = {name: fractions[name] * value for name, value in outputs.terms.items()}
        weights = self._term_weights()
        if measures:
            self._measure(tapped[0], loss, parts)
        for name, part in parts.items():
            self.add_term(name, part * self.accumulation_steps)
            loss = loss + weights[name] * part
        return (loss, outputs) if return_outputs else loss

    def _term_weights(self) -> dict[str, float | torch.Tensor]:
        """What the terms are multiplied by at the step under way."""
        factor, balance = self.distillation_factor, self.model.balance
        set_now = {} if balance is None else {name: factor * weight for name, weight in balance.weights().items()}
        self._weights = set_now
        return {name: set_now[name] if name in set_now else factor * t.weight for name, t in self.model.terms.items()}

    def _measures(self, model: nn.Module) -> bool:
        """Whether the gradients of this step are measured, for weights that are set by them."""
        due = self.state.global_step % self.args.balanced_every == 0
        return self.model.balance is not None and model.training and due

    def _measure(self, tapped: torch.Tensor, label_loss: torch.Tensor, parts: dict[str, torch.Tensor]) -> None:
        """Add this micro-batch's gradients at the tapped map to those of the step; the last one sets the weights."""
        balance = self.model.balance
        scaler = self.accelerator.scaler
        scale = 1.0 if scaler is None else scaler.get_scale()
        squares = squared_norms([label_loss, *(parts[name] for name in balance.names)], tapped, scale)
        self._squared_norms = squares if self._squared_norms is None else self._squared_norms + squares
        if self.accelerator.sync_gradients:
            # Losses are multiplied by the number of processes, whose gradients are averaged.
            norms = (
                self.accelerator.reduce(self._squared_norms, reduction="sum").sqrt() / self.accelerator.num_processes
            )
            balance.update(norms[0], norms[1:])
            self._squared_norms = None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= {f"weight/{name}": float(weight) for name, weight in self._weights.items()}
        super().log(logs, start_time)

    @torch.no_grad()
    def _classify(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The teacher's classes (N, H, W) of images (N, 3, H, W), among those that it shares with the student."""
        with self.accelerator.autocast():
            logits = self.teacher(pixel_values).logits
        return argmax_resized(logits, (pixel_values.shape[-2], pixel_values.shape[-1]))

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | None:
        self._step_counts = {}
        if batch_samples and self.model.terms:
            counts = [
                sum(term.count(batch["labels"]).to(device).float() for batch in batch_samples)
                for term in self.model.terms.values()
            ]
            reduced = self.accelerator.reduce(torch.stack(counts), reduction="sum")
            self._step_counts = dict(zip(self.model.terms, reduced.masked_fill(reduced == 0, 1), strict=True))
        return super()._get_num_items_in_batch(batch_samples, device)

    def _fractions_of_step(self, labels: torch.Tensor) -> dict[str, torch.Tensor | float]:
        """The part of this micro-batch in each term's mean over the whole step.

        With these factors micro-batches add up to that mean and processes average to it, however many positions count
        in each. Outside of a training step the factors are 1.
        """
        terms = self.model.terms
        if not self._step_counts:
            return dict.fromkeys(terms, 1.0)
        processes = self.accelerator.num_processes
        return {name: processes * term.count(labels) / self._step_counts[name] for name, term in terms.items()}
