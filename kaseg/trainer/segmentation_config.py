"""Arguments of SegmentationTrainer."""

import math
from collections.abc import Collection, Iterable
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

import torch
from transformers import TrainingArguments

from kaseg.losses import LOSSES
from kaseg.trainer.options import option, with_fields_in_doc

DEFAULT_MAX_STEPS = 30_000
# Fields of TrainingArguments that would change nothing, by the reason.
WITHOUT_EFFECT = {
    "the trainer has a loss and scores of its own": (
        "average_tokens_across_devices",
        "batch_eval_metrics",
        "eval_accumulation_steps",
        "eval_do_concat_batches",
        "eval_use_gather_object",
        "include_for_metrics",
        "label_names",
        "prediction_loss_only",
    ),
    "images and masks are transformed lazily, and have no length": ("remove_unused_columns", "length_column_name"),
    "it is for language models": (
        "include_num_input_tokens_seen",
        "liger_kernel_config",
        "neftune_noise_alpha",
        "optim_target_modules",
        "use_cache",
        "use_liger_kernel",
    ),
}
OF_ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon")
# The paper's power, and down to 0, where transformers stops at 1e-7.
POLY = {"power": 0.9, "lr_end": 0.0}


@with_fields_in_doc
@dataclass
class SegmentationConfig(TrainingArguments):
    r"""Arguments of [`SegmentationTrainer`]: those of `transformers.TrainingArguments` and the fields of its own.

    Defaults that differ from `TrainingArguments` and are not explained with their field:

    - `max_steps=30000` unless `max_steps` or `num_train_epochs` is given (the paper's for VOC and Context; 90k for
      Cityscapes), hence `num_train_epochs=0`, which means "not given".
    - The batch of 16 is meant globally: divide it by the number of processes and accumulation steps.
    - `per_device_eval_batch_size=1`: only images of one size share a forward pass; none is padded.
    - With fp16, steps that overflow are left out, and only 32 of them in a row are an error.
    - `logging_steps=50`, `save_total_limit=2`: our choice.
    """

    # Groups of the command line's help by their first field; no metadata, which HfArgumentParser hands to argparse.
    help_groups: ClassVar[dict[str, str]] = {
        "loss": "Loss",
        "backbone_learning_rate_scale": "Learning rate of parts",
        "ema_decay": "Average of the weights",
        "sync_batch_norm": "Several GPUs",
        "crop_size": "Augmentation",
        "mix": "Mixing",
        "eval_size": "Evaluation",
    }

    per_device_train_batch_size: int = option(16, "Images per device and micro-batch (paper: 16 in all).")
    per_device_eval_batch_size: int = option(1, "Images per device in evaluation.")
    learning_rate: float = option(0.007, "Initial learning rate (paper).")
    weight_decay: float = option(4e-5, "Weight decay (paper); biases and BatchNorm are spared.")
    optim: str = option("sgd", "Optimizer (paper: SGD).")
    optim_args: str | None = option(None, "For sgd momentum=0.9 by default (paper).")
    lr_scheduler_type: str = option("polynomial", "Schedule (paper: poly).")
    lr_scheduler_kwargs: dict[str, Any] | str | None = option(
        None, "For polynomial by default power 0.9 (paper), down to 0."
    )
    max_steps: int = option(-1, "Steps; 30000 (paper: VOC, Context) unless num_train_epochs is given.")
    num_train_epochs: float = option(0.0, "Epochs, instead of max_steps.")
    max_grad_norm: float = option(0.0, "Clip gradients to this norm; 0: never, as it would strangle distillation.")
    dataloader_drop_last: bool = option(True, "Drop a last short batch: pooled BatchNorm cannot take one image.")
    remove_unused_columns: bool = option(False, "Must stay off: images and masks are transformed lazily.")
    logging_nan_inf_filter: bool = option(
        False, "Training stops at losses that are not finite, so none needs to be left out."
    )
    logging_steps: float = option(50, "Steps between two lines of the log.")
    save_total_limit: int | None = option(2, "Checkpoints to keep.")

    loss: str = option("cross_entropy", f"Training loss on the labels: {', '.join(LOSSES)}.")
    class_weights: list[float] | None = option(None, "One weight per class, for cross_entropy and ohem.")
    backbone_learning_rate_scale: float = option(1.0, "Factor on learning_rate for the encoder.")
    ema_decay: float | None = option(
        None,
        "Evaluate and save the exponential moving average of weights and BatchNorm statistics with this decay, such as "
        "0.999, in place of the weights that are trained.",
    )
    sync_batch_norm: bool = option(False, "Statistics of BatchNorm over all processes (GPUs only).")
    crop_size: list[int] = option([513, 513], "Height and width of the training crop in pixels.")
    min_scale: float = option(0.5, "Smallest random scale (DeepLab's recipe).")
    max_scale: float = option(2.0, "Largest random scale (DeepLab's recipe).")
    scale_step: float | None = option(None, "Step between random scales, such as DeepLab's 0.25; uniform by default.")
    horizontal_flip: float = option(0.5, "Probability of mirroring.")
    brightness: float = option(0.0, "Strength of the brightness jitter.")
    contrast: float = option(0.0, "Strength of the contrast jitter.")
    saturation: float = option(0.0, "Strength of the saturation jitter.")
    hue: float = option(0.0, "Strength of the hue jitter.")
    photometric_distortion: bool = option(False, "Distort brightness, contrast, saturation and hue as SSD does.")
    cat_max_ratio: float = option(
        1.0,
        "Draw a crop again, up to 10 times, while one class has this share of its labelled pixels (mmsegmentation: "
        "0.75); 1: never.",
    )
    short_edge: int | None = option(None, "Short edge that scale 1 stands for in training; own size by default.")
    max_long_edge: int | None = option(None, "Limit of the long edge at scale 1, which goes before short_edge.")
    mix: str | None = option(
        None,
        "Paste a part of one training image into another, labels alike: cutmix (a box) or classmix (half of its "
        "classes). A teacher sees the mixed image, too; the stages before distillation do not mix.",
    )
    mix_probability: float = option(0.5, "Probability of an image to be mixed.")
    mix_of: str = option("all", "Which images of a batch are mixed with one another: all or unlabelled.")
    eval_size: int | None = option(
        None, "Short edge that images, not labels, are resized to for evaluation; own size by default."
    )
    eval_max_long_edge: int | None = option(None, "Limit of the long edge, which goes before eval_size.")
    eval_size_divisor: int | None = option(
        None, "Pad images to multiples of it for evaluation; padding is never scored."
    )

    def __post_init__(self) -> None:
        if isinstance(self.crop_size, int):
            self.crop_size = [self.crop_size]
        if len(self.crop_size) == 1:
            self.crop_size = [self.crop_size[0], self.crop_size[0]]
        counted = "include_num_input_tokens_seen"
        if getattr(self, counted) is False:  # as HfArgumentParser reads the default, "no"
            setattr(self, counted, "no")
        self.check()
        if self.max_steps <= 0 and self.num_train_epochs <= 0:
            self.max_steps = DEFAULT_MAX_STEPS
        if self.optim == "sgd" and self.optim_args is None:
            self.optim_args = "momentum=0.9"
        if self.lr_scheduler_type == "polynomial" and self.lr_scheduler_kwargs is None:
            self.lr_scheduler_kwargs = dict(POLY)
        if self.bf16 and not torch.accelerator.is_available():
            # transformers takes bf16 without an accelerator for a mistake unless it is told so.
            self.use_cpu = True
        super().__post_init__()

    def check(self) -> None:
        """Raises a ValueError that names a field which has a value that it cannot have, or one that changes nothing."""
        for reason, names in WITHOUT_EFFECT.items():
            self._refuse_given(names, reason)
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise ValueError(
                f"train_sampling_strategy must be 'random' or 'sequential', got {self.train_sampling_strategy!r}: "
                "images have no length to group them by."
            )
        if self.optim == "sgd":
            self._refuse_given(OF_ADAM, "the optimizer is SGD (optim='sgd')")
        if len(self.crop_size) != 2 or min(self.crop_size) < 1:
            raise ValueError(f"crop_size must be one or two positive numbers (height, width), got {self.crop_size}.")
        if not 0 < self.min_scale <= self.max_scale:
            raise ValueError(f"0 < min_scale <= max_scale is needed, got {self.min_scale} and {self.max_scale}.")
        self._require_one_of("loss", LOSSES)
        self._check_mix()
        if self.class_weights is not None and not all(0 <= weight < math.inf for weight in self.class_weights):
            raise ValueError(f"class_weights must be numbers from 0 on, got {self.class_weights}.")
        if self.class_weights is not None and sum(weight > 0 for weight in self.class_weights) < 2:
            raise ValueError(
                f"class_weights need two positive numbers, or nothing is learned, got {self.class_weights}."
            )
        self._require_not_negative("learning_rate", "weight_decay", "max_grad_norm", "backbone_learning_rate_scale")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must be above 0 and below 1, or left out, got {self.ema_decay}.")

    def _given(self, names: Collection[str]) -> list[str]:
        """Those of the fields that do not have their default."""
        defaults = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(self)}
        return [name for name in defaults if name in names and getattr(self, name) != defaults[name]]

    def _require_not_negative(self, *names: str) -> None:
        for name in names:
            if not 0 <= float(getattr(self, name)) < math.inf:  # NaN is neither
                raise ValueError(f"{name} must not be negative, infinite or NaN, got {getattr(self, name)}.")

    def _require_one_of(self, name: str, choices: Collection[Any]) -> None:
        if getattr(self, name) not in choices:
            known = tuple(choice for choice in choices if choice is not None)
            raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}.")

    def _refuse_given(self, names: Iterable[str], reason: str) -> None:
        """Raise a ValueError if one of these fields is set, as it would change nothing."""
        if given := self._given(tuple(names)):
            raise ValueError(f"{', '.join(given)} would change nothing, as {reason}: leave it out.")

    def _check_mix(self) -> None:
        if self.mix is not None:
            # Here, since it imports datasets, which help does without.
            from kaseg.data.mixing import check_mix

            check_mix(self.mix, self.mix_probability, self.mix_of)
            if self.per_device_train_batch_size < 2:
                raise ValueError("mix takes the images of a batch, so per_device_train_batch_size must be at least 2.")
            return
        self._refuse_given(("mix_probability", "mix_of"), "mix is not set")

    @property
    def augmentation_seed(self) -> int:
        """Seed of the random crops, scales and colors: `data_seed` where it is given, as for the data order."""
        return self.seed if self.data_seed is None else self.data_seed

    def check_unlabelled(self, given: bool) -> None:
        """Raise a `ValueError` for options of images without masks where none are given."""
        if self.mix_of == "unlabelled" and not given:
            raise ValueError(
                "mix_of='unlabelled' mixes images without masks, but there are none: give them (unlabelled_dataset; in "
                "recipes unlabelled_dir or max_labelled_samples, and a teacher), or set mix_of to 'all'."
            )
