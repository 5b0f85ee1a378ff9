"""Knowledge adaptation: a student taught by a frozen teacher (He et al. 2019)."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torch.utils.data import ConcatDataset
from transformers import set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import ModelOutput

from kaseg.data import WithUnlabelled
from kaseg.distillation.autoencoder import FeatureAutoencoder, FeatureAutoencoderConfig, encoder_strides
from kaseg.distillation.losses import AdaptationLoss, AffinityLoss
from kaseg.distillation.teachers import TeacherAdapter
from kaseg.distillation.teachers.normalization import Normalization
from kaseg.distillation.terms import PAPER_TERMS, DistillationTerm, build_rivals, size_of_other
from kaseg.image_processing_kaseg import KASegImageProcessor
from kaseg.modeling_kaseg import KASegModel
from kaseg.trainer.autoencoder_trainer import AutoencoderTrainer, autoencoder_arguments
from kaseg.trainer.base import last_complete_checkpoint, share_buffers
from kaseg.trainer.knowledge_adaptation_config import KnowledgeAdaptationConfig
from kaseg.trainer.segmentation_trainer import SegmentationTrainer

ADAPTERS_NAME = "adapters.safetensors"


@dataclass
class StudentOutput(ModelOutput):
    """Logits of the student and, with a teacher's maps, the distillation terms by name (scalars, not weighted) and the
    grids (height, width) on which they were taken."""

    logits: torch.Tensor | None = None
    terms: dict[str, torch.Tensor] | None = None
    sizes: dict[str, tuple[int, int]] | None = None


class StudentWithAdapters(nn.Module):
    """The student and the adapters that exist only while it is taught: all that is trained, in one module.

    Args:
        student ([`KASegModel`]): The student.
        terms (`dict[str, DistillationTerm]`): The distillation terms with their adapters.
        tap (`int`): Index of the student's tapped map in its `hidden_states`.
        known_classes (`list[int]`, *optional*): The student's classes that the teacher's logits are of; all by default.
    """

    main_input_name = "pixel_values"
    accepts_loss_kwargs = False
    _keys_to_ignore_on_save = None

    def __init__(
        self, student: KASegModel, terms: dict[str, DistillationTerm], tap: int, known_classes: list[int] | None = None
    ) -> None:
        super().__init__()
        self.student = student
        self.config = student.config
        self.tap = tap
        self.known_classes = known_classes
        self.terms = nn.ModuleDict(terms)

    def adapter_state_dict(self) -> dict[str, torch.Tensor]:
        """Tensors of the adapters alone."""
        return {k: v.contiguous() for k, v in self.state_dict().items() if not k.startswith("student.")}

    def forward(
        self,
        pixel_values: torch.Tensor,
        teacher: dict[str, torch.Tensor] | None = None,
        labels: torch.Tensor | None = None,
    ) -> StudentOutput:
        """Images (B, 3, H, W); the teacher's maps by name (`code`, `features`, `logits`) as the terms read them; labels
        (B, H, W) if a term needs them. Without maps there are logits alone."""
        if teacher is None:
            return StudentOutput(logits=self.student(pixel_values).logits)
        outputs = self.student(pixel_values, output_hidden_states=True)
        features = outputs.hidden_states[self.tap]
        terms, sizes = {}, {}
        for name, term in self.terms.items():
            assert isinstance(term, DistillationTerm)
            student = features
            if term.source == "logits":
                known = self.known_classes
                student = outputs.logits if known is None else outputs.logits[:, known]
            terms[name], sizes[name] = term(student, teacher[term.source], labels)
        return StudentOutput(logits=outputs.logits, terms=terms, sizes=sizes)


def build_terms(
    args: KnowledgeAdaptationConfig, student_channels: int, teacher_channels: int, latent_channels: int
) -> dict[str, DistillationTerm]:
    """The terms that `args` ask for, by name; those of weight 0 are left out.

    Args:
        args ([`KnowledgeAdaptationConfig`]): The arguments.
        student_channels, teacher_channels, latent_channels (`int`): Channels of the tapped maps and of the code.
    """
    paper = {
        "adaptation": (args.adaptation_weight, AdaptationLoss(p=args.adaptation_p, q=args.adaptation_q)),
        "affinity": (args.affinity_weight, AffinityLoss(squared_rows=args.squared_affinity_rows)),
    }
    source, channels = ("code", latent_channels) if args.use_autoencoder else ("features", teacher_channels)
    ignore_void = args.ignore_void_positions
    weights = args.class_weights if args.distillation_class_weights else None
    terms = {
        name: DistillationTerm(
            name, PAPER_TERMS[name], weight, source, loss, student_channels, channels, ignore_void, weights
        )
        for name, (weight, loss) in paper.items()
        if weight > 0
    }
    return terms | build_rivals(args.distillation_losses, student_channels, teacher_channels, ignore_void)


class KnowledgeAdaptationTrainer(SegmentationTrainer):
    """Distils a teacher into a student: `L = L_ce + beta * L_adapt + gamma * L_aff`, or with any rival losses.

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
            stage. There is no such stage, and this is not used, where no term reads the code.
        unlabelled_dataset (`datasets.Dataset` or a `ConcatDataset` of them, *optional*): Images without masks, such as
            [`~kaseg.data.load_images`] gives. The terms learn from them, too, the labels' loss does not; half of a
            batch is theirs on average, and an epoch is twice the longer of the two data sets
            ([`~kaseg.data.WithUnlabelled`]). A column `label` is not looked at.
        kwargs: As in [`SegmentationTrainer`].

    Raises:
        ValueError: unlabelled images where the `train_dataset` is no `datasets.Dataset` or void positions are left out;
            an autoencoder that does not fit the teacher's map; a teacher that gives no logits or shares no
            classes with the student where a term compares logits; a [`TeacherAdapter`] that was matched with other
            classes, or that `teacher_tap` or `teacher_scale` comes too late for; an autoencoder that is to be fitted
            with the teacher's classifier, where none reads the tapped map; a `student_tap` that does not exist; a
            teacher that is the student itself; several GPUs in one process.

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
        unlabelled_dataset: datasets.Dataset | ConcatDataset | None = None,
        **kwargs: Any,
    ) -> None:
        if args.n_gpu > 1:
            raise ValueError(
                f"One process with {args.n_gpu} GPUs is not supported: start one process per GPU (torchrun "
                "--nproc_per_node=..., or accelerate launch), or show it a single one (CUDA_VISIBLE_DEVICES=0)."
            )
        fitted = FeatureAutoencoder.from_pretrained(autoencoder) if isinstance(autoencoder, str | Path) else autoencoder
        self.autoencoder: FeatureAutoencoder | None = None
        processor = kwargs["processing_class"] = kwargs.get("processing_class") or KASegImageProcessor()
        adapter = _build_teacher(teacher, model, args, processor)
        self.teacher_channels, self.teacher_stride = adapter.describe(num_channels=model.config.num_channels)
        latent_channels = args.latent_channels if fitted is None else fitted.config.latent_channels
        channels, self.student_stride = _student_map(model, args.student_tap)
        # Adapters start alike whatever was drawn before.
        set_seed(args.seed)
        terms = build_terms(args, channels, self.teacher_channels, latent_channels)
        known_classes = None
        if any(term.source == "logits" for term in terms.values()):
            known_classes = adapter.require_logits().tolist()
            # Indexing by all of them would only copy.
            known_classes = None if known_classes == list(range(model.config.num_labels)) else known_classes
        if (
            fitted is None
            and args.autoencoder_classifier_weight > 0
            and any(term.source == "code" for term in terms.values())
        ):
            adapter.require_classifier()
        if args.mix == "classmix" and unlabelled_dataset is not None:
            adapter.require_logits()
        self._step_labels: list[torch.Tensor] = []
        self._step_counts: dict[str, torch.Tensor] = {}
        self._unlabelled = unlabelled_dataset
        composite = StudentWithAdapters(model, terms, args.student_tap, known_classes)
        super().__init__(model=composite, args=args, **kwargs)
        if self.model_card is not None:
            self.model_card.set_teacher(teacher)
        self.teacher = self.accelerator.prepare_model(adapter, evaluation_mode=True)
        if fitted is not None and self.needs_code:
            self._use_autoencoder(fitted)

    def _prepare_dataset(self, dataset: Any, args: Any, training: bool) -> Any:
        if not training or self._unlabelled is None:
            return super()._prepare_dataset(dataset, args, training)
        if args.ignore_void_positions:
            raise ValueError(
                "Every position of an unlabelled image is void: set ignore_void_positions to False, or leave them "
                "out (unlabelled_dataset; in recipes unlabelled_dir or max_labelled_samples)."
            )
        unlabelled = getattr(self._unlabelled, "datasets", [self._unlabelled])  # those of a ConcatDataset
        for name, data in (("train_dataset", dataset), *(("unlabelled_dataset", part) for part in unlabelled)):
            if not isinstance(data, datasets.Dataset):
                raise ValueError(f"Beside unlabelled images, {name} must be a datasets.Dataset, not {type(data)}.")
        transform = self._train_transform(args)
        return WithUnlabelled(dataset, self._unlabelled, transform, args.augmentation_seed, self.num_labels)

    @property
    def segmentation_model(self) -> KASegModel:
        return self.model.student

    @property
    def needs_code(self) -> bool:
        """Whether any term reads the autoencoder's code."""
        return any(term.source == "code" for term in self.model.terms.values())

    def _use_autoencoder(self, autoencoder: FeatureAutoencoder) -> None:
        if autoencoder.config.in_channels != self.teacher_channels:
            raise ValueError(
                f"The autoencoder reads maps of {autoencoder.config.in_channels} channels, but the teacher's tapped "
                f"map has {self.teacher_channels}. Fit a new one (autoencoder=None) or tap another map (teacher_tap)."
            )
        self.autoencoder = autoencoder.freeze().to(self.args.device)

    def learning_rate_scale(self, name: str) -> float:
        if name.removeprefix("module.").startswith("terms."):
            return self.args.adapter_learning_rate_scale
        return super().learning_rate_scale(name)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Fit the autoencoder unless there is one or no term reads its code, then distil.

        `resume_from_checkpoint=True` resumes in whichever stage the run in `output_dir` was stopped, and starts from
        the beginning if there is nothing to resume from. A checkpoint of another folder brings that run's autoencoder.

        Raises:
            FileNotFoundError: There is no finished autoencoder beside the checkpoint that is named.
        """
        if self.autoencoder is None and self.needs_code:
            if isinstance(resume_from_checkpoint, str | Path):
                self._take_over_autoencoder(Path(resume_from_checkpoint).parent / "autoencoder")
            self._use_autoencoder(self.fit_autoencoder(resume=bool(resume_from_checkpoint)))
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        finally:
            self._step_labels = []

    def _take_over_autoencoder(self, folder: Path) -> None:
        """Copy the finished autoencoder in `folder` to where this run's would lie."""
        own = Path(self.args.output_dir) / "autoencoder"
        if not (folder / TRAINER_STATE_NAME).is_file():
            raise FileNotFoundError(
                f"{folder}: no finished autoencoder, and with another one the student would meet another code. Name "
                "it: KnowledgeAdaptationTrainer(..., autoencoder=...)."
            )
        if folder.resolve() != own.resolve() and self.is_world_process_zero():
            shutil.copytree(folder, own, ignore=shutil.ignore_patterns("checkpoint-*"), dirs_exist_ok=True)
        self.accelerator.wait_for_everyone()

    def fit_autoencoder(self, resume: bool = False) -> FeatureAutoencoder:
        """The first stage; with `resume`, a finished autoencoder is read and an unfinished one continued."""
        folder = Path(self.args.output_dir) / "autoencoder"
        finished = folder / TRAINER_STATE_NAME
        if resume and finished.is_file():
            return FeatureAutoencoder.from_pretrained(folder)
        # A stale one must not survive a restart: this file says that the stage is done, and is written last.
        finished.unlink(missing_ok=True)
        set_seed(self.args.seed)
        autoencoder = FeatureAutoencoder(
            FeatureAutoencoderConfig(
                in_channels=self.teacher_channels,
                latent_channels=self.args.latent_channels,
                strides=encoder_strides(self.teacher_stride, self.student_stride),
                sparsity_weight=self.args.sparsity_weight,
            )
        )
        steps_per_epoch = 1
        if hasattr(self.train_dataset, "__len__"):
            steps_per_epoch = max(1, len(self.train_dataset) // self.get_total_train_batch_size(self.args))
        elif self.args.autoencoder_max_steps < 1:
            raise ValueError("A stream has no length and so no epochs: set autoencoder_max_steps.")
        trainer = AutoencoderTrainer(
            model=autoencoder,
            teacher=self.teacher,
            args=autoencoder_arguments(self.args, steps_per_epoch),
            train_dataset=self.train_dataset,
            data_collator=self.data_collator,
        )
        trainer.train(resume_from_checkpoint=last_complete_checkpoint(folder) if resume else None)
        share_buffers(autoencoder)  # each process is about to freeze its own
        trainer.save_model()
        trainer.save_state()
        return autoencoder

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
        teacher = self._teacher_maps(inputs["pixel_values"])
        needs_labels = any(term.needs_labels for term in self.model.terms.values())
        labels = inputs["labels"] if needs_labels else None
        outputs = model(pixel_values=inputs["pixel_values"], teacher=teacher, labels=labels)
        loss = self.label_loss(outputs.logits, inputs["labels"], num_items_in_batch)
        self.add_term("cross_entropy", loss * self.accumulation_steps)
        shares = self._shares(inputs["labels"], outputs.sizes)
        for name, term in self.model.terms.items():
            part = shares[name] * outputs.terms[name]
            self.add_term(name, part * self.accumulation_steps)
            loss = loss + self.distillation_factor * term.weight * part
        return (loss, outputs) if return_outputs else loss

    @torch.no_grad()
    def _teacher_maps(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the terms read of the teacher, and nothing else."""
        sources = {term.source for term in self.model.terms.values()}
        if not sources:
            return {}
        with self.accelerator.autocast():
            output = self.teacher(pixel_values)
            maps = {"features": output.features, "logits": output.logits}
            if "code" in sources:
                assert self.autoencoder is not None  # train() has seen to it
                maps["code"] = self.autoencoder.encode(output.features).float()
        return {name: maps[name] for name in sources}

    def _mix(self, batch: dict[str, torch.Tensor], number: int, classify: Any = None) -> dict[str, torch.Tensor]:
        return super()._mix(batch, number, None if self._unlabelled is None else self._classify)

    @torch.no_grad()
    def _classify(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The teacher's classes (N, H, W) of images (N, 3, H, W), among those that it shares with the student."""
        with self.accelerator.autocast():
            logits = self.teacher(pixel_values).logits
        size = pixel_values.shape[-2:]
        return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False).argmax(1)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | None:
        # All that the terms' denominators need; they are counted once the grids are known.
        self._step_labels, self._step_counts = [batch["labels"] for batch in batch_samples], {}
        return super()._get_num_items_in_batch(batch_samples, device)

    def _shares(self, labels: torch.Tensor, sizes: dict[str, tuple[int, int]]) -> dict[str, torch.Tensor]:
        """This micro-batch's part in each term's mean over the step, such that micro-batches add up and processes
        average to that mean, whatever the number of positions that count in each.

        Outside of a training step, the step is this micro-batch.
        """
        terms = self.model.terms
        counts = {name: term.count(labels, sizes[name]) for name, term in terms.items()}
        if not terms or not self._step_labels:
            return {name: torch.ones_like(count) for name, count in counts.items()}
        if not self._step_counts:
            totals: list[torch.Tensor] = []
            for name, term in terms.items():
                other = [size_of_other(sizes[name], labels.shape[-2:], batch.shape[-2:]) for batch in self._step_labels]
                of_batches = (term.count(batch, size) for batch, size in zip(self._step_labels, other, strict=True))
                totals.append(sum(count.to(labels.device) for count in of_batches))
            reduced = self.accelerator.reduce(torch.stack([total.float() for total in totals]), reduction="sum")
            self._step_counts = dict(zip(terms, reduced.masked_fill(reduced == 0, 1), strict=True))
        processes = self.accelerator.num_processes
        return {name: processes * count / self._step_counts[name] for name, count in counts.items()}

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


def _student_map(student: KASegModel, tap: int) -> tuple[int, int]:
    """Channels and stride of the student's tapped map."""
    maps = [
        *zip(student.encoder.channels, student.encoder.reductions, strict=True),
        (student.config.head_channels, student.feature_stride),
    ]
    if not -len(maps) <= tap < len(maps):
        described = ", ".join(f"{i}: {c} channels at stride {s}" for i, (c, s) in enumerate(maps))
        raise ValueError(f"student_tap={tap}, but the student has the maps {described} (or counted from the end, -1).")
    return maps[tap]


def _build_teacher(
    teacher: str | Path | nn.Module,
    student: KASegModel,
    args: KnowledgeAdaptationConfig,
    processor: KASegImageProcessor,
) -> TeacherAdapter:
    labels, label_map = student.config.id2label, args.teacher_label_map
    normalization = Normalization.of_processor(processor)
    if isinstance(teacher, nn.Module) and any(module is student for module in teacher.modules()):
        raise ValueError(
            "The teacher is the student itself, which would be frozen: pass a copy (copy.deepcopy(model))."
        )
    if isinstance(teacher, TeacherAdapter):
        if args.teacher_tap is not None:
            raise ValueError(
                f"teacher_tap={args.teacher_tap!r} is given, but the teacher is a TeacherAdapter that reads "
                f"{teacher.tap} already: name the tap there, TeacherAdapter(model, tap=...)."
            )
        if args.teacher_scale not in (1.0, teacher.image_scale):
            raise ValueError(
                f"teacher_scale={args.teacher_scale} is given, but the teacher is a TeacherAdapter with an image_scale "
                f"of {teacher.image_scale}: set it there, TeacherAdapter(model, image_scale=...)."
            )
        if not teacher.knows_images:
            teacher.expect_images(normalization.mean, normalization.std)
        if teacher.label_match is None or label_map:
            teacher.match(labels, label_map)
        elif teacher.label_match.student != tuple(labels[index] for index in sorted(labels)):
            raise ValueError(
                f"The teacher was matched with the classes {', '.join(teacher.label_match.student)}, but the student "
                f"has {', '.join(labels.values())}: give TeacherAdapter student_labels=student.config.id2label."
            )
        return teacher
    options: dict[str, Any] = {
        "tap": args.teacher_tap,
        "image_scale": args.teacher_scale,
        "student_mean": normalization.mean,
        "student_std": normalization.std,
        "student_labels": labels,
        "label_map": label_map,
    }
    if isinstance(teacher, str | Path):
        return TeacherAdapter.from_pretrained(str(teacher), **options)
    return TeacherAdapter(teacher, **options)
