"""Knowledge adaptation: a student taught by a frozen teacher (He et al. 2019)."""

import copy
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
from torch import nn
from torch.utils.data import ConcatDataset
from transformers import set_seed

from kaseg.best_effort import best_effort
from kaseg.data import SegmentationDataset, TrainTransform, WithUnlabelled
from kaseg.distillation.autoencoder import FeatureAutoencoder, FeatureAutoencoderConfig, encoder_strides
from kaseg.distillation.balance import GradientBalance
from kaseg.distillation.map_shape import MapShape
from kaseg.distillation.student_with_adapters import StudentWithAdapters, checked_student, student_map_shapes
from kaseg.distillation.teachers.adapter import TeacherAdapter
from kaseg.distillation.teachers.building import build_teacher
from kaseg.distillation.teachers.maps import TeacherMaps, whole_image
from kaseg.distillation.terms import build_terms, sources_of
from kaseg.finite import require_finite
from kaseg.image_processing_kaseg import KASegImageProcessor
from kaseg.modeling_kaseg import KASegModel
from kaseg.pixels import Normalization
from kaseg.progress import progress_bar
from kaseg.trainer.adapter_trainer import AdapterTrainer, adapter_arguments, load_adapters, save_adapters
from kaseg.trainer.autoencoder_trainer import AutoencoderTrainer, autoencoder_arguments
from kaseg.trainer.base import last_complete_checkpoint
from kaseg.trainer.distillation_step import DistillationStep
from kaseg.trainer.hyperparameter_search import FIRST_STAGES, initial_model
from kaseg.trainer.image_processor import image_processor_for
from kaseg.trainer.knowledge_adaptation_config import KnowledgeAdaptationConfig
from kaseg.trainer.stages import is_finished, stage_folder

logger = logging.getLogger(__name__)


class KnowledgeAdaptationTrainer(DistillationStep):
    """Distills a teacher into a student: `L = L_ce + beta * L_adapt + gamma * L_aff`, or with other terms.

    One `train()` runs both stages: the autoencoder is fitted to the frozen teacher's features in
    `output_dir/autoencoder` (unless one is given), then its encoder is frozen, its decoder dropped, and the student is
    taught with two adapters that are thrown away afterwards. Checkpoints load as the student;
    `train(resume_from_checkpoint=True)` goes on in whichever stage a run was stopped.

    Args:
        model ([`KASegModel`], *optional*): The student; or `model_init`, as in [`SegmentationTrainer`]: each training
            begins with a new student and new adapters, all with the same teacher and autoencoder.
        teacher (`str`, `Path`, [`KASegModel`], [`TeacherAdapter`] or `nn.Module`): A Hub id or folder, or a network;
            see [`TeacherAdapter`] for taps and normalization.
        args ([`KnowledgeAdaptationConfig`]): The arguments.
        autoencoder ([`FeatureAutoencoder`], `str` or `Path`, *optional*): A fitted autoencoder, which skips the first
            stage. There is no such stage, and this is not used, where no term reads the code.
        unlabelled_dataset (`datasets.Dataset` or a `ConcatDataset` of them, *optional*): Images without masks, such as
            [`~kaseg.data.load_images`] gives. The terms learn from them, too, the labels' loss does not. They
            are mixed with the others by `labelled_share` ([`~kaseg.data.WithUnlabelled`]). A column `label` is not
            looked at.
        train_dataset, eval_dataset, data_collator, processing_class, kwargs: As in [`SegmentationTrainer`].

    Raises:
        OSError: a teacher or an autoencoder that is not there or cannot be read.
        ValueError: parts that do not fit each other, which the message names: student, teacher (its classes, its tap,
            a [`TeacherAdapter`] that was made with other options), autoencoder and data; several GPUs in one process.

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
    shared_by_trials = FIRST_STAGES

    def __init__(
        self,
        model: KASegModel | None = None,
        teacher: str | Path | nn.Module | None = None,
        args: KnowledgeAdaptationConfig | None = None,
        autoencoder: FeatureAutoencoder | str | Path | None = None,
        unlabelled_dataset: datasets.Dataset | ConcatDataset | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        data_collator: Any = None,
        processing_class: KASegImageProcessor | None = None,
        model_init: Callable[..., KASegModel] | None = None,
        **kwargs: Any,
    ) -> None:
        args = args or KnowledgeAdaptationConfig()
        if args.n_gpu > 1:
            raise ValueError(
                f"One process with {args.n_gpu} GPUs is not supported: start one process per GPU (torchrun "
                "--nproc_per_node=..., or accelerate launch), or show it a single one (CUDA_VISIBLE_DEVICES=0)."
            )
        model = checked_student(initial_model(model, model_init, args))
        if model_init is not None and args.adapter_warmup_steps:
            raise ValueError(
                "adapter_warmup_steps would change nothing with model_init, which begins with new adapters in train()."
            )
        if teacher is None:
            raise ValueError("KnowledgeAdaptationTrainer needs a teacher: a Hub id, a folder or a network.")
        fitted = FeatureAutoencoder.from_pretrained(autoencoder) if isinstance(autoencoder, str | Path) else autoencoder
        if fitted is not None and not isinstance(fitted, FeatureAutoencoder):
            raise ValueError(f"autoencoder is a FeatureAutoencoder or its folder, not a {type(fitted).__name__}.")
        processing_class = image_processor_for(model, processing_class)
        frozen_teacher = build_teacher(
            teacher,
            model,
            Normalization.of_processor(processing_class),
            tap=args.teacher_tap,
            image_scale=args.teacher_scale,
            output_stride=args.teacher_output_stride,
            label_map=args.teacher_label_map,
        )
        self.autoencoder = None
        self._unlabelled = unlabelled_dataset
        self._begin_steps()
        self._keep_map_shapes(model, frozen_teacher, fitted, args)
        self._teacher_maps = self._build_teacher_maps(frozen_teacher, args, processing_class)
        super().__init__(
            model=self._with_adapters(model, args),
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=data_collator,
            processing_class=processing_class,
            **kwargs,
        )
        self.model_init = model_init
        if self.model_card is not None:
            with best_effort("the teacher's name and results for the model card"):
                self.model_card.set_teacher(teacher)
        self.teacher = self.accelerator.prepare_model(frozen_teacher, evaluation_mode=True)
        if fitted is not None and self.needs_code:
            self._use_autoencoder(fitted)

    def _keep_map_shapes(
        self,
        model: KASegModel,
        teacher: TeacherAdapter,
        autoencoder: FeatureAutoencoder | None,
        args: KnowledgeAdaptationConfig,
    ) -> None:
        """Keep the channels and strides of the maps that the terms compare, and the classes that the teacher knows; a
        ValueError if the parts do not fit each other."""
        shapes, sources = teacher.maps(model.config.num_channels), sources_of(args.term_settings)
        if not sources:
            logger.warning("Every term has a weight of 0: the student learns from its labels alone.")
        self.teacher_channels, self.teacher_stride = shapes["features"]
        self.student_stride = student_map_shapes(model, args.student_tap)["features"].stride
        latent_channels = args.latent_channels if autoencoder is None else autoencoder.config.latent_channels
        self._map_shapes = {**shapes, "code": MapShape(latent_channels, self.student_stride)}
        self._kept_strides = {source: shape.stride for source, shape in shapes.items()}
        if args.teacher_logits_stride is not None and "logits" in shapes:
            self._map_shapes["logits"] = _on_finer_grid(shapes["logits"], args.teacher_logits_stride)
        self._known_classes = _known_classes(teacher, model.config.num_labels) if "logits" in sources else None
        if autoencoder is None and args.autoencoder_classifier_weight > 0 and "code" in sources:
            teacher.require_classifier()
        if args.mix == "classmix" and self._unlabelled is not None:
            teacher.require_logits()

    def _build_teacher_maps(
        self, teacher: TeacherAdapter, args: KnowledgeAdaptationConfig, processor: KASegImageProcessor
    ) -> TeacherMaps | None:
        """Where the teacher's maps of whole images are kept; `None` if the teacher sees crops, or no term reads it."""
        sources = _tapped(sources_of(args.term_settings))
        if args.teacher_view != "image" or not sources:
            return None
        folder = args.teacher_maps_dir or Path(args.output_dir) / "teacher_maps"
        crop_size = (args.crop_size[0], args.crop_size[1])
        strides = {source: self._kept_strides[source] for source in sources}
        return TeacherMaps(folder, teacher, strides, crop_size, processor, args.teacher_logits_stride)

    def _is_fixed(self, name: str) -> bool:
        # The teacher's maps of whole images are for crops of one size.
        return super()._is_fixed(name) or (name == "crop_size" and self._teacher_maps is not None)

    def _with_adapters(self, student: KASegModel, args: KnowledgeAdaptationConfig) -> StudentWithAdapters:
        """The student with the terms that the arguments ask for."""
        # Adapters start alike whatever was drawn before.
        set_seed(args.seed)
        students = student_map_shapes(student, args.student_tap)
        class_weights = args.class_weights if args.distillation_class_weights else None
        terms = build_terms(args.term_settings, students, self._map_shapes, args.ignore_void_positions, class_weights)
        if self._unlabelled is not None and terms and all(term.loss.takes_labels for term in terms.values()):
            logger.warning(
                "The images without masks will teach nothing, as the terms (%s) leave out what has no label: add "
                "another term, or leave the images out.",
                ", ".join(terms),
            )
        shares = args.balanced_shares
        balance = GradientBalance(shares, args.balanced_decay) if shares else None
        composite = StudentWithAdapters(student, terms, args.student_tap, self._known_classes, balance)
        if args.adapter_warmup_steps and not composite.adapted_terms:
            raise ValueError(
                f"adapter_warmup_steps fits adapters, but none of the terms ({', '.join(terms)}) has one here, as the "
                "maps of student and teacher have equally many channels: leave it out."
            )
        return composite

    def call_model_init(self, trial: Any = None) -> StudentWithAdapters:
        student = checked_student(super().call_model_init(trial))
        stride = student_map_shapes(student, self.args.student_tap)["features"].stride
        if stride != self.student_stride:
            raise ValueError(
                f"model_init has made a student of stride {stride}, after one of {self.student_stride}, for which the "
                "autoencoder's code is: make a search of its own for each stride."
            )
        sources = sources_of(self.args.term_settings)
        kept = () if self._teacher_maps is None else self._teacher_maps.sources
        if self.args.teacher_view == "image" and not _tapped(sources) <= set(kept):
            raise ValueError(
                f"teacher_view='image' keeps the maps that the first terms read ({', '.join(kept) or 'none'}), but now "
                f"they read {', '.join(sorted(_tapped(sources)))}: begin with a weight for each of them."
            )
        if self._known_classes is None and "logits" in sources:
            self._known_classes = _known_classes(self.accelerator.unwrap_model(self.teacher), self.num_labels)
        return self._with_adapters(student, self.args)

    def _prepare_dataset(self, dataset: Any, args: Any, training: bool) -> Any:
        if not training or self._unlabelled is None:
            prepared = super()._prepare_dataset(dataset, args, training)
            if training and self._teacher_maps is not None and dataset is not None:
                if not isinstance(prepared, SegmentationDataset):
                    raise ValueError(
                        f"teacher_view='image' needs a train_dataset that is a datasets.Dataset, not {type(dataset)}: "
                        "set teacher_view to 'crop'."
                    )
                transform = prepared.transform
                crops = transform.crop_size if isinstance(transform, TrainTransform) else None
                if crops != self._teacher_maps.crop_size:
                    raise ValueError(
                        f"teacher_view='image' cuts maps for crops of crop_size {self._teacher_maps.crop_size}, but "
                        f"the train_dataset has a transform of its own, {type(transform).__name__} with crops "
                        f"of {crops}: give a datasets.Dataset, a TrainTransform with that crop_size, or set "
                        "teacher_view to 'crop'."
                    )
                prepared = copy.copy(prepared)  # it may be the user's own dataset, which must not change
                prepared.maps = self._teacher_maps.crop
            return prepared
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
        maps = None if self._teacher_maps is None else self._teacher_maps.crop
        seed, share = args.augmentation_seed, args.labelled_share
        return WithUnlabelled(dataset, self._unlabelled, transform, seed, self.num_labels, maps, share)

    @property
    def student(self) -> KASegModel:
        return self.model.student

    @property
    def needs_code(self) -> bool:
        """Whether any term reads the autoencoder's code."""
        return "code" in self.model.sources

    def _use_autoencoder(self, autoencoder: FeatureAutoencoder) -> None:
        if autoencoder.config.in_channels != self.teacher_channels:
            raise ValueError(
                f"The autoencoder reads maps of {autoencoder.config.in_channels} channels, but the teacher's tapped "
                f"map has {self.teacher_channels}. Fit a new one (autoencoder=None) or tap another map (teacher_tap)."
            )
        require_finite(autoencoder, "The autoencoder")
        self.autoencoder = autoencoder.freeze().to(self.args.device)

    def learning_rate_scale(self, name: str) -> float:
        if name.removeprefix("module.").startswith("terms."):
            return self.args.adapter_learning_rate_scale
        return super().learning_rate_scale(name)

    def train(self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, **kwargs: Any) -> Any:
        """Fit the autoencoder unless there is one or no term reads its code; warm up the adapters, if asked to; then
        distill.

        `resume_from_checkpoint=True` resumes in whichever stage the run in `output_dir` was stopped, and starts from
        the beginning if there is nothing to resume from. A checkpoint of another folder brings that run's autoencoder.

        Raises:
            FileNotFoundError: There is no finished autoencoder beside the checkpoint that training would go on from.
        """
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, trial=trial, **kwargs)
        finally:
            self._begin_steps()

    def _compute_teacher_maps(self) -> None:
        """With `teacher_view="image"`, show the teacher every training image once. Images whose maps are there already
        are skipped, so that a stopped run goes on where it was."""
        if self._teacher_maps is None:
            return
        parts = [self.train_dataset]
        if isinstance(self.train_dataset, WithUnlabelled):
            parts = [self.train_dataset.dataset, *getattr(self._unlabelled, "datasets", [self._unlabelled])]
        images: ConcatDataset = ConcatDataset([getattr(part, "dataset", part) for part in parts])
        own = range(self.args.process_index, len(images), self.args.world_size)
        with progress_bar("Teacher", len(own), "images", disable=self.args.disable_tqdm) as bar:
            for index in own:
                self._teacher_maps.add(whole_image(images, index), self.teacher, self.args.device)
                bar.update()
        self.accelerator.wait_for_everyone()

    def _prepare_training(self, resume_from_checkpoint: str | bool | None) -> None:
        self._compute_teacher_maps()
        checkpoint = resume_from_checkpoint or None
        if checkpoint is True:
            checkpoint = last_complete_checkpoint(self.args.output_dir)
        if self.autoencoder is None and self.needs_code:
            if checkpoint is not None:
                _require_finished(Path(checkpoint).parent / "autoencoder")
            if isinstance(resume_from_checkpoint, str | Path):
                fitted = self._take_over_autoencoder(Path(resume_from_checkpoint).parent / "autoencoder")
            else:
                fitted = self.fit_autoencoder(resume=bool(resume_from_checkpoint))
            self._use_autoencoder(fitted)
        if self.args.adapter_warmup_steps and checkpoint is None:  # a checkpoint has its own
            self.fit_adapters(resume=bool(resume_from_checkpoint))

    def _take_over_autoencoder(self, folder: Path) -> FeatureAutoencoder:
        """Copy the finished autoencoder in `folder` to where this run's would lie, and read it."""
        own = stage_folder(self.args, "autoencoder")
        if folder.resolve() != own.resolve() and self.is_world_process_zero():
            shutil.copytree(folder, own, ignore=shutil.ignore_patterns("checkpoint-*"), dirs_exist_ok=True)
        self.accelerator.wait_for_everyone()
        return FeatureAutoencoder.from_pretrained(own)

    def fit_autoencoder(self, resume: bool = False) -> FeatureAutoencoder:
        """The first stage; with `resume`, an unfinished autoencoder is continued and a finished one read, or a
        ValueError raised if it was fitted by another recipe."""
        folder = stage_folder(self.args, "autoencoder")
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
        how = f"KnowledgeAdaptationTrainer(..., autoencoder={str(folder)!r})"
        was_finished = trainer.train_unless_finished(autoencoder, resume, how)
        return FeatureAutoencoder.from_pretrained(folder) if was_finished else autoencoder

    def fit_adapters(self, resume: bool = False) -> None:
        """The warm-up of the adapters; `resume` as in [`~KnowledgeAdaptationTrainer.fit_autoencoder`]."""
        trainer = AdapterTrainer(
            self.model,
            self.teacher,
            self.autoencoder,
            adapter_arguments(self.args),
            train_dataset=self.train_dataset,
            data_collator=self.data_collator,
        )
        was_finished = trainer.train_unless_finished(self.model.terms, resume, "train(resume_from_checkpoint=False)")
        if was_finished:
            load_adapters(self.model, stage_folder(self.args, "adapters"))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir)
        if self.args.should_save:
            save_adapters(self.model, output_dir or self.args.output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint)
        load_adapters(self.model, resume_from_checkpoint)


def _known_classes(teacher: TeacherAdapter, num_labels: int) -> list[int] | None:
    """The student's classes that the teacher's logits are of; `None` for all: indexing by them would only copy."""
    known = teacher.require_logits().tolist()
    return None if known == list(range(num_labels)) else known


def _on_finer_grid(logits: MapShape, stride: int) -> MapShape:
    if stride >= logits.stride:
        raise ValueError(
            f"teacher_logits_stride is {stride}, but the teacher's logits have a stride of {logits.stride}: give a "
            "smaller one, or leave it out."
        )
    return logits._replace(stride=stride)


def _tapped(sources: set[str]) -> set[str]:
    """The teacher's own maps that terms read: the code is made of the features."""
    return {"logits" if source == "logits" else "features" for source in sources}


def _require_finished(autoencoder: Path) -> None:
    if not is_finished(autoencoder):
        raise FileNotFoundError(
            f"{autoencoder}: no finished autoencoder, and with another one the student would meet another code. Bring "
            "it back, name it (autoencoder=...), or start anew (kaseg distill: --no-resume)."
        )
