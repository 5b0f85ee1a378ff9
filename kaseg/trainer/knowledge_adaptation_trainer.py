"""Knowledge adaptation: a student taught by a frozen teacher (He et al. 2019)."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import ModelOutput

from kaseg.distillation.adapters import AffinityAdapter, FeatureAdapter
from kaseg.distillation.autoencoder import FeatureAutoencoder, FeatureAutoencoderConfig, encoder_strides
from kaseg.distillation.losses import AdaptationLoss, AffinityLoss
from kaseg.distillation.teachers import TeacherAdapter
from kaseg.modeling_kaseg import KASegModel
from kaseg.trainer.autoencoder_trainer import AutoencoderTrainer, autoencoder_arguments
from kaseg.trainer.base import last_complete_checkpoint
from kaseg.trainer.knowledge_adaptation_config import KnowledgeAdaptationConfig
from kaseg.trainer.segmentation_trainer import SegmentationTrainer

ADAPTERS_NAME = "adapters.safetensors"


@dataclass
class StudentOutput(ModelOutput):
    """Logits of the student and, with a teacher's code, the two distillation terms (scalars, not weighted)."""

    logits: torch.Tensor | None = None
    adaptation_loss: torch.Tensor | None = None
    affinity_loss: torch.Tensor | None = None


class StudentWithAdapters(nn.Module):
    """The student and the adapters that exist only while it is taught: all that is trained, in one module."""

    main_input_name = "pixel_values"
    accepts_loss_kwargs = False
    _keys_to_ignore_on_save = None

    def __init__(self, student: KASegModel, latent_channels: int, args: KnowledgeAdaptationConfig) -> None:
        super().__init__()
        self.student = student
        self.config = student.config
        self.tap = args.student_tap
        channels = [*student.encoder.channels, student.config.head_channels][self.tap]
        self.feature_adapter = FeatureAdapter(channels, latent_channels) if args.adaptation_weight > 0 else None
        self.affinity_adapter = AffinityAdapter(channels, latent_channels) if args.affinity_weight > 0 else None
        self.adaptation_loss = AdaptationLoss(p=args.adaptation_p, q=args.adaptation_q)
        self.affinity_loss = AffinityLoss(squared_rows=args.squared_affinity_rows)

    def adapter_state_dict(self) -> dict[str, torch.Tensor]:
        """Tensors of the adapters alone."""
        return {k: v.contiguous() for k, v in self.state_dict().items() if not k.startswith("student.")}

    def forward(
        self, pixel_values: torch.Tensor, code: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> StudentOutput:
        """Images (B, 3, H, W), teacher's code (B, c, h, w) and, if void is left out, labelled pixels (B, H, W)."""
        if code is None:
            return StudentOutput(logits=self.student(pixel_values).logits)
        outputs = self.student(pixel_values, output_hidden_states=True)
        features = outputs.hidden_states[self.tap]
        if code.shape[-2:] != features.shape[-2:]:
            code = F.interpolate(code, size=features.shape[-2:], mode="bilinear", align_corners=False)
        if mask is not None:
            mask = F.interpolate(mask[:, None].float(), size=features.shape[-2:], mode="nearest-exact")[:, 0] > 0.5
        result = StudentOutput(logits=outputs.logits)
        if self.feature_adapter is not None:
            result.adaptation_loss = self.adaptation_loss(self.feature_adapter(features), code, mask)
        if self.affinity_adapter is not None:
            result.affinity_loss = self.affinity_loss(self.affinity_adapter(features), code, mask)
        return result


class KnowledgeAdaptationTrainer(SegmentationTrainer):
    """Distils a teacher into a student: `L = L_ce + beta * L_adapt + gamma * L_aff`.

    One `train()` runs both stages: the autoencoder is fitted to the frozen teacher's features in
    `output_dir/autoencoder` (unless one is given), then its encoder is frozen, its decoder dropped, and the student is
    taught with two adapters that are thrown away afterwards. Checkpoints load as the student;
    `train(resume_from_checkpoint=True)` goes on in whichever stage a run was stopped.

    Args:
        model ([`KASegModel`]): The student.
        teacher (`str`, `Path`, [`KASegModel`], [`TeacherAdapter`] or `nn.Module`): A Hub id or folder, or a network;
            see [`TeacherAdapter`] for taps and normalisation.
        args ([`KnowledgeAdaptationConfig`]): The arguments.
        autoencoder ([`FeatureAutoencoder`], `str` or `Path`, *optional*): A fitted autoencoder, which skips the first
            stage.
        kwargs: As in [`SegmentationTrainer`].

    Raises:
        ValueError: an autoencoder that does not fit the teacher's map.

    Example:

    ```python
    trainer = KnowledgeAdaptationTrainer(
        model=student, teacher="kaseg/...-teacher", args=KnowledgeAdaptationConfig(output_dir="out"),
        train_dataset=train, eval_dataset=validation, processing_class=processor,
    )
    trainer.train()
    ```
    """

    stage = "distillation"

    def __init__(
        self,
        model: KASegModel,
        teacher: str | Path | nn.Module,
        args: KnowledgeAdaptationConfig,
        autoencoder: FeatureAutoencoder | str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        fitted = FeatureAutoencoder.from_pretrained(autoencoder) if isinstance(autoencoder, str | Path) else autoencoder
        self.autoencoder: FeatureAutoencoder | None = fitted
        latent_channels = args.latent_channels if fitted is None else fitted.config.latent_channels
        # Adapters start alike whatever was drawn before.
        set_seed(args.seed)
        super().__init__(model=StudentWithAdapters(model, latent_channels, args), args=args, **kwargs)
        self.teacher = self._build_teacher(teacher)
        if self.model_card is not None:
            self.model_card.set_teacher(teacher)
        self.teacher = self.accelerator.prepare_model(self.teacher, evaluation_mode=True)
        self.teacher_channels, self.teacher_stride = self.teacher.describe(num_channels=model.config.num_channels)
        if fitted is not None:
            self._use_autoencoder(fitted)

    @property
    def segmentation_model(self) -> KASegModel:
        return self.model.student

    def _build_teacher(self, teacher: str | Path | nn.Module) -> TeacherAdapter:
        labels, label_map = self.segmentation_model.config.id2label, self.args.teacher_label_map
        if isinstance(teacher, TeacherAdapter):
            if teacher.label_match is None:
                teacher.match(labels, label_map)
            return teacher
        options: dict[str, Any] = {
            "tap": self.args.teacher_tap,
            "student_mean": self.processing_class.image_mean,
            "student_std": self.processing_class.image_std,
            "student_labels": labels,
            "label_map": label_map,
        }
        if isinstance(teacher, str | Path):
            return TeacherAdapter.from_pretrained(str(teacher), **options)
        return TeacherAdapter(teacher, **options)

    def _use_autoencoder(self, autoencoder: FeatureAutoencoder) -> None:
        if autoencoder.config.in_channels != self.teacher_channels:
            raise ValueError(
                f"The autoencoder reads maps of {autoencoder.config.in_channels} channels, but the teacher's tapped "
                f"map has {self.teacher_channels}. Fit a new one (autoencoder=None) or tap another map (teacher_tap)."
            )
        self.autoencoder = autoencoder.freeze().to(self.args.device)

    def learning_rate_scale(self, name: str) -> float:
        if "feature_adapter." in name or "affinity_adapter." in name:
            return self.args.adapter_learning_rate_scale
        return super().learning_rate_scale(name)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Fit the autoencoder unless there is one, then distil.

        `resume_from_checkpoint=True` resumes in whichever stage the run in `output_dir` was stopped, and starts from
        the beginning if there is nothing to resume from.
        """
        if self.autoencoder is None:
            self._use_autoencoder(self.fit_autoencoder(resume=bool(resume_from_checkpoint)))
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def fit_autoencoder(self, resume: bool = False) -> FeatureAutoencoder:
        """The first stage; with `resume`, a finished autoencoder is read and an unfinished one continued."""
        folder = Path(self.args.output_dir) / "autoencoder"
        finished = folder / TRAINER_STATE_NAME
        if resume and finished.is_file():
            return FeatureAutoencoder.from_pretrained(folder)
        # A stale one must not survive a restart: this file says that the stage is done, and is written last.
        finished.unlink(missing_ok=True)
        set_seed(self.args.seed)
        student_stride = self.segmentation_model.config.output_stride
        autoencoder = FeatureAutoencoder(
            FeatureAutoencoderConfig(
                in_channels=self.teacher_channels,
                latent_channels=self.args.latent_channels,
                strides=encoder_strides(self.teacher_stride, student_stride),
                sparsity_weight=self.args.sparsity_weight,
            )
        )
        steps_per_epoch = 1
        if hasattr(self.train_dataset, "__len__"):
            steps_per_epoch = max(1, len(self.train_dataset) // self.get_total_train_batch_size(self.args))
        trainer = AutoencoderTrainer(
            model=autoencoder,
            teacher=self.teacher,
            args=autoencoder_arguments(self.args, steps_per_epoch),
            train_dataset=self.train_dataset,
            data_collator=self.data_collator,
        )
        trainer.train(resume_from_checkpoint=last_complete_checkpoint(folder) if resume else None)
        trainer.save_model()
        trainer.save_state()
        return autoencoder

    @property
    def distillation_factor(self) -> float:
        """Factor on beta and gamma at the step under way, 1 at the first and, unless constant, 0 after the last."""
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
        assert self.autoencoder is not None  # train() has seen to it
        with torch.no_grad(), self.accelerator.autocast():
            code = self.autoencoder.encode(self.teacher(inputs["pixel_values"]).features).float()
        factor = self.distillation_factor
        mask = inputs["labels"].ne(255) if self.args.ignore_void_positions else None
        outputs = model(pixel_values=inputs["pixel_values"], code=code, mask=mask)
        loss = self.label_loss(outputs.logits, inputs["labels"], num_items_in_batch)
        self.add_term("cross_entropy", loss * self.accumulation_steps)
        # The label loss already belongs to the whole step; the distillation terms are means of this micro-batch.
        if outputs.adaptation_loss is not None:
            self.add_term("adaptation", outputs.adaptation_loss)
            loss = loss + factor * self.args.adaptation_weight * outputs.adaptation_loss / self.accumulation_steps
        if outputs.affinity_loss is not None:
            self.add_term("affinity", outputs.affinity_loss)
            loss = loss + factor * self.args.affinity_weight * outputs.affinity_loss / self.accumulation_steps
        return (loss, outputs) if return_outputs else loss

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        composite, self.model = self.model, self.model.student
        try:
            super()._save(output_dir)
        finally:
            self.model = composite
        if self.args.should_save:
            save_file(composite.adapter_state_dict(), os.path.join(output_dir or self.args.output_dir, ADAPTERS_NAME))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        composite = self.model if model is None else model
        super()._load_from_checkpoint(resume_from_checkpoint, composite.student)
        adapters = load_file(os.path.join(resume_from_checkpoint, ADAPTERS_NAME))
        missing, unexpected = composite.load_state_dict(adapters, strict=False)
        missing = [name for name in missing if not name.startswith("student.")]
        if missing or unexpected:
            raise ValueError(
                f"{resume_from_checkpoint}/{ADAPTERS_NAME} does not fit this run: missing {missing}, unexpected "
                f"{unexpected}. Resume with the weights and latent_channels that the run was started with."
            )

    def _load_best_model(self) -> None:
        # What is best is the student; its adapters have no further use.
        composite, self.model = self.model, self.model.student
        try:
            super()._load_best_model()
        finally:
            self.model = composite
