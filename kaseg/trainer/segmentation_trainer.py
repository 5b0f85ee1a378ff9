"""Training of teachers and plain students, and fine-tuning."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import datasets
import torch
from safetensors.torch import load_model, save_model
from torch import nn

from kaseg.configuration_kaseg import require_classes
from kaseg.data import (
    BatchMixer,
    EvalTransform,
    SegmentationCollator,
    SegmentationDataset,
    StreamingSegmentationDataset,
    TrainTransform,
)
from kaseg.data.class_presence import check_training_masks, require_labelled_pixels
from kaseg.evaluation import ConfusionMatrix
from kaseg.evaluation.samples import check_channels
from kaseg.image_processing_kaseg import KASegImageProcessor
from kaseg.losses import CrossEntropyLoss, build_loss
from kaseg.pixels import Normalization
from kaseg.trainer.base import encoder_of, synchronize_batch_norm
from kaseg.trainer.depthwise_convolutions import train_fast_on_cpu
from kaseg.trainer.ema import TRAINED_WEIGHTS_NAME, WeightAverage, WeightAverageCallback, check_same_averaging
from kaseg.trainer.hyperparameter_search import initial_model
from kaseg.trainer.image_processor import image_processor_for
from kaseg.trainer.options import fields_for
from kaseg.trainer.scoring import ScoringTrainer
from kaseg.trainer.segmentation_config import SegmentationConfig

logger = logging.getLogger(__name__)

# What transformers would call with logits, which are not kept, or in place of the loss that is computed here.
_NOT_CALLED = ("compute_metrics", "compute_loss_func", "preprocess_logits_for_metrics")


class SegmentationTrainer(ScoringTrainer):
    """Trains a [`KASegModel`] (or any model that returns `logits`) on labelled images.

    Datasets with the columns `image` and `label` (see [`~kaseg.data.load_segmentation_dataset`]) are augmented and
    normalized as `args` and `processing_class` say; so are own ones: a `datasets.Dataset` with other usual column
    names or `with_format("torch")`, a list, a `torch.utils.data.Dataset` or a `Subset` of samples or of pairs (image,
    mask), see [`~kaseg.data.own_samples.standard_sample`]. Samples that already have normalized `pixel_values` and
    `labels` are taken as they are. Cross-entropy is normalized by the labelled pixels of the whole step, over
    micro-batches and processes.

    Evaluation streams a confusion matrix at the labels' own resolution: no logits are kept. It computes in the type of
    the weights, also where training autocasts (`bf16_full_eval` has it in bfloat16). It reports `eval_loss`,
    `eval_mean_iou`, `eval_mean_accuracy`, `eval_overall_accuracy`, `eval_iou_<class>` for every class present, and how
    many classes the labels and the predictions hold (`eval_num_reference_classes`, `eval_num_predicted_classes`), with
    a warning where it is one.
    `predict` reports the same as `test_...`; its `predictions` are None ([`~kaseg.inference.Predictor`] gives masks).

    Args:
        model ([`KASegModel`], *optional*): The model; or `model_init`.
        args ([`SegmentationConfig`]): The arguments.
        train_dataset, eval_dataset (*optional*): Data.
        data_collator (`Callable`, *optional*): Makes a batch of prepared samples; by default a
            [`~kaseg.data.SegmentationCollator`].
        processing_class ([`KASegImageProcessor`], *optional*): Gives the normalization, makes the images of an
            evaluation (resized to `eval_size`, if that is set), and is saved beside the model; see
            [`~kaseg.trainer.image_processor.image_processor_for`] for other processors and for the default.
        model_init (`Callable`, *optional*): Makes the model, anew at the beginning of each training, as
            [`~SegmentationTrainer.hyperparameter_search`] needs it; may take the trial as its argument.
        kwargs: Further arguments of `transformers.Trainer`, but for `compute_metrics`, `compute_loss_func` and
            `preprocess_logits_for_metrics`: override `compute_loss` or `evaluation_loop` instead.

    Raises:
        ValueError: an image processor that gives other pixel values or labels than training sees, or has another void
            label than 255; classes that cannot be scored ([`~kaseg.configuration_kaseg.require_classes`]) or class
            weights that do not fit them; arguments that would change nothing; FSDP or DeepSpeed.
    """

    _unlabelled: Any = None  # images without masks, which trainers with a teacher may have

    train_dataset: Any

    def __init__(
        self,
        model: Any = None,
        args: SegmentationConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        data_collator: Any = None,
        processing_class: KASegImageProcessor | None = None,
        model_init: Callable[..., Any] | None = None,
        **kwargs: Any,
    ) -> None:
        args = args or SegmentationConfig()
        model = initial_model(model, model_init, args)
        unused = [name for name in _NOT_CALLED if kwargs.get(name) is not None]
        unused += ["label_smoothing_factor"] if args.label_smoothing_factor else []
        if unused:
            raise ValueError(
                f"{type(self).__name__} computes its own loss and scores, so {', '.join(unused)} would change nothing. "
                "Leave it out; override compute_loss or evaluation_loop for other losses and scores."
            )
        edges = (args.eval_size, args.eval_max_long_edge)
        self.processing_class = processing_class = image_processor_for(model, processing_class, *edges)
        if processing_class.do_resize and args.eval_size is None and args.short_edge is None:
            logger.warning(
                "The image processor resizes images (do_resize), training does not: set short_edge and crop_size so "
                "that training sees them at that size."
            )
        require_classes(model.config, type(model).__name__)
        self.num_labels = num_labels = model.config.num_labels
        if args.class_weights is not None and len(args.class_weights) != num_labels:
            raise ValueError(f"class_weights has {len(args.class_weights)} entries for {num_labels} classes.")
        if args.device.type == "cpu":
            train_fast_on_cpu(model)
        self._own_collator = data_collator is not None
        self.mixer = self._mixer_of(args)
        self.criterion = build_loss(args.loss, args.class_weights)
        self.average: WeightAverage | None = None
        self.confusion_matrix = ConfusionMatrix(num_labels)
        if isinstance(eval_dataset, dict):
            eval_dataset = {name: self._prepare_dataset(d, args, False) for name, d in eval_dataset.items()}
        else:
            eval_dataset = self._prepare_dataset(eval_dataset, args, False)
        # The user's dataset, and what was made of it: a search may change the augmentation, and it is then made anew.
        self._raw_train_dataset = train_dataset
        self._made_train_dataset = self._prepare_dataset(train_dataset, args, True)
        super().__init__(
            model=model,
            args=args,
            train_dataset=self._made_train_dataset,
            eval_dataset=eval_dataset,
            data_collator=data_collator or SegmentationCollator(),
            processing_class=processing_class,
            **kwargs,
        )
        self._masks_were_checked = False
        if args.backbone_learning_rate_scale != 1:
            encoder_of(self.student)  # raises where there is none
        # transformers takes a model or a function that makes it; both are here by now.
        self.model_init = model_init
        # No part of the model, so nobody else moves it; class weights left behind are copied in every step.
        self.criterion.to(self.args.device)
        # The cross-entropy below is already divided by the labelled pixels of the whole accumulated step.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True

    def call_model_init(self, trial: Any = None) -> Any:
        model = super().call_model_init(trial)
        if model.config.num_labels != self.num_labels:
            raise ValueError(
                f"model_init has made a model of {model.config.num_labels} classes, after one of {self.num_labels}."
            )
        if self.args.sync_batch_norm:
            model = synchronize_batch_norm(model, self.args)
        if self.args.device.type == "cpu":
            train_fast_on_cpu(model)
        self._begin_average(model)
        if self.model_card is not None:
            self.model_card.model = model if self.average is None else self.average.module
        return model

    def train(self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, **kwargs: Any) -> Any:
        """As in [`TermTrainer`], after [`~SegmentationTrainer.check_masks`]."""
        if trial is not None:
            # transformers does so once more, but only after it has made the trial's model.
            self._hp_search_setup(trial)
        if self.model_init is not None:
            self._follow_arguments()
        if self.model is None:  # given up by the trial before
            self.model = self.call_model_init(trial)
        self.check_masks()
        self._prepare_training(resume_from_checkpoint)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, trial=trial, **kwargs)

    def _follow_arguments(self) -> None:
        """What was made of arguments that a search, or who takes over its result, has set anew."""
        self.args.check()
        self.criterion = build_loss(self.args.loss, self.args.class_weights).to(self.args.device)
        self.mixer = self._mixer_of(self.args)
        if self.train_dataset is self._made_train_dataset:
            self.train_dataset = self._made_train_dataset = self._prepare_dataset(
                self._raw_train_dataset, self.args, True
            )

    def _mixer_of(self, args: SegmentationConfig) -> BatchMixer | None:
        args.check_unlabelled(self._unlabelled is not None)
        if args.mix is None:
            return None
        return BatchMixer(args.mix, args.mix_probability, args.mix_of, args.augmentation_seed)

    def _prepare_dataset(self, dataset: Any, args: SegmentationConfig, training: bool) -> Any:
        if dataset is None or isinstance(dataset, SegmentationDataset | StreamingSegmentationDataset):
            return dataset
        if isinstance(dataset, Mapping):
            raise ValueError(
                f"Training takes one dataset, not a {type(dataset).__name__} of {', '.join(map(str, dataset))}: give "
                "one of them, such as train_dataset=data['train']."
            )
        is_stream = isinstance(dataset, datasets.IterableDataset)
        # Whoever brings a collator may read samples of any kind in it.
        is_ours = isinstance(dataset, datasets.Dataset) or not self._own_collator
        if not is_stream and not (is_ours and hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            return dataset
        transform = self._train_transform(args) if training else self._eval_transform(args)
        wrapper = StreamingSegmentationDataset if is_stream else SegmentationDataset
        return wrapper(dataset, transform, seed=args.augmentation_seed, num_labels=self.num_labels, with_names=training)

    def _train_transform(self, args: SegmentationConfig) -> TrainTransform:
        normalization = Normalization.of_processor(self.processing_class)
        return TrainTransform(
            scale_range=(args.min_scale, args.max_scale),
            image_mean=normalization.mean,
            image_std=normalization.std,
            **fields_for(TrainTransform, args),
        )

    def _eval_transform(self, args: SegmentationConfig) -> EvalTransform:
        return EvalTransform(image_processor=self.processing_class, size_divisor=args.eval_size_divisor)

    def check_masks(self) -> None:
        """Look at the masks before anything is trained, once; a ValueError if the training masks hold fewer than two
        classes, or the evaluation masks no labelled pixel."""
        if self._masks_were_checked:
            return
        id2label = self.segmentation_model.config.id2label
        check_training_masks(self.train_dataset, [id2label[index] for index in range(self.num_labels)])
        several = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"": self.eval_dataset}
        for name, data in several.items():
            if data is not None:
                require_labelled_pixels(data, self.num_labels, f"The evaluation data {name}".strip())
        self._masks_were_checked = True

    @property
    def student(self) -> Any:
        """The network that is trained."""
        return self.model

    @property
    def segmentation_model(self) -> Any:
        """The network that is saved and evaluated: the one that is trained, or its average (`ema_decay`)."""
        return self.student if self.average is None else self.average.module

    def _begin_average(self, network: Any = None) -> None:
        self.remove_callback(WeightAverageCallback)
        self.average = None
        if self.args.ema_decay is not None:
            self.average = WeightAverage(self.student if network is None else network, self.args.ema_decay)
            self.add_callback(WeightAverageCallback(self.average, lambda: self.student))

    @contextmanager
    def _as_model(self, network: Any) -> Iterator[None]:
        """Inside, `transformers.Trainer` saves and loads `network`."""
        trained, self.model = self.model, network
        try:
            yield
        finally:
            self.model = trained

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        with self._as_model(self.segmentation_model):
            super()._save(output_dir)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.average is not None and self.args.should_save:
            save_model(self.student, os.path.join(output_dir, TRAINED_WEIGHTS_NAME))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        check_same_averaging(self.average is not None, resume_from_checkpoint)
        super()._load_from_checkpoint(resume_from_checkpoint, self.segmentation_model)
        if self.average is not None:
            load_model(self.student, os.path.join(resume_from_checkpoint, TRAINED_WEIGHTS_NAME))

    def _load_best_model(self) -> None:
        with self._as_model(self.segmentation_model):
            super()._load_best_model()

    def learning_rate_scale(self, name: str) -> float:
        scale = self.args.backbone_learning_rate_scale
        return scale if scale != 1 and name in self._encoder_names else 1.0

    @cached_property
    def _encoder_names(self) -> set[str]:
        """Names in the trained module of the encoder's parameters."""
        encoder = {id(parameter) for parameter in encoder_of(self.student).parameters()}
        return {name for name, parameter in self.model.named_parameters() if id(parameter) in encoder}

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> Any:
        if self.mixer is not None:  # before labels are counted
            epoch_iterator = (self._mix(batch, number) for number, batch in enumerate(epoch_iterator))
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def _mix(self, batch: dict[str, torch.Tensor], number: int) -> dict[str, torch.Tensor]:
        """Micro-batch `number` of the step under way, mixed; a resumed run mixes as the unbroken one."""
        assert self.mixer is not None
        numbers = (self.state.global_step, number, self.accelerator.process_index)
        return self.mixer(batch, *numbers, classify=None if self._unlabelled is None else self._classify)

    def _classify(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The classes (N, H, W) of images without labels (N, 3, H, W), where there is a teacher that knows them."""
        raise NotImplementedError

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | None:
        """Denominator of the cross-entropy over all micro-batches and processes of a step."""
        if not batch_samples or not isinstance(self.criterion, CrossEntropyLoss):
            return None
        count = torch.stack([self.criterion.normalizer(batch["labels"]).to(device) for batch in batch_samples]).sum()
        return self.accelerator.reduce(count, reduction="sum")

    def label_loss(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None
    ) -> torch.Tensor:
        """Loss on the labels, scaled so that micro-batches add up and processes average to the step's loss."""
        labels = labels.long()  # those of a user's own collator may be of another integer type
        if isinstance(self.criterion, CrossEntropyLoss):
            loss = self.criterion(logits, labels, num_items_in_batch)
            # DDP averages gradients over processes, but the sum over them is what belongs to a common denominator.
            return loss if num_items_in_batch is None else loss * self.accelerator.num_processes
        return self.criterion(logits, labels) / self.accumulation_steps

    @property
    def accumulation_steps(self) -> int:
        """Micro-batches of the step under way (fewer at the end of an epoch)."""
        return getattr(self, "current_gradient_accumulation_steps", self.args.gradient_accumulation_steps)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        check_channels(self.segmentation_model.config, inputs["pixel_values"], "Training")
        outputs = model(pixel_values=inputs["pixel_values"])
        loss = self.label_loss(outputs.logits, inputs["labels"], num_items_in_batch)
        return (loss, outputs) if return_outputs else loss
