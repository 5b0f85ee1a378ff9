"""Arguments of SegmentationTrainer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

import torch
from transformers import TrainingArguments

from kaseg.losses import LOSSES

DEFAULT_MAX_STEPS = 30_000
# Fields of TrainingArguments that would change nothing, by the reason.
WITHOUT_EFFECT = {
    "The trainer has a loss and scores of its own": (
        "average_tokens_across_devices",
        "batch_eval_metrics",
        "eval_accumulation_steps",
        "eval_do_concat_batches",
        "eval_use_gather_object",
        "include_for_metrics",
        "label_names",
        "prediction_loss_only",
    ),
    "Images and masks are transformed lazily, and have no length": ("remove_unused_columns", "length_column_name"),
    "It is for language models": (
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


@dataclass
class SegmentationConfig(TrainingArguments):
    r"""Arguments of [`SegmentationTrainer`]: those of `transformers.TrainingArguments` and the ones below.

    > Parameters that control the loss

    loss (`str`, *optional*, defaults to `"cross_entropy"`): `"cross_entropy"`, `"ohem"` or `"dice"`.
    class_weights (`list[float]`, *optional*): One weight per class for cross-entropy and OHEM.

    > Parameters that control the learning rate of parts

    backbone_learning_rate_scale (`float`, *optional*, defaults to 1.0): Factor on `learning_rate` for the encoder.

    > Parameters that control the average of the weights

    ema_decay (`float`, *optional*): Evaluate and save the exponential moving average of weights and BatchNorm
        statistics with this decay, such as 0.999, in place of the weights that are trained. Off by default; see
        [`~kaseg.trainer.ema.WeightAverage`].

    > Parameters that control training on several GPUs

    sync_batch_norm (`bool`, *optional*, defaults to `False`): Take the statistics of BatchNorm over the images of all
        processes instead of each process's own. Changes nothing with one process; an error with several on the CPU.

    > Parameters that control augmentation (applied jointly to image and mask; see [`~kaseg.data.TrainTransform`])

    crop_size (`list[int]`, *optional*, defaults to `[513, 513]`): Height and width of the training crop in pixels.
    min_scale, max_scale (`float`, *optional*, default to 0.5 and 2.0): Range of the random scale (DeepLab's recipe).
    scale_step (`float`, *optional*): Draw scales in steps, e.g. DeepLab's 0.25, instead of uniformly.
    horizontal_flip (`float`, *optional*, defaults to 0.5): Probability of mirroring.
    brightness, contrast, saturation, hue (`float`, *optional*, default to 0.0): Strength of the colour jitter.
    photometric_distortion (`bool`, *optional*, defaults to `False`): Distort brightness, contrast, saturation and hue
        as SSD does (see [`~kaseg.data.photometric.PhotometricDistortion`]).
    cat_max_ratio (`float`, *optional*, defaults to 1.0): Draw the crop again, up to 10 times, while one class has this
        share or more of its labelled pixels (mmsegmentation's recipes: 0.75). 1 turns it off.
    short_edge (`int`, *optional*): Length of the short edge that scale 1 stands for. The images' own by default.
    max_long_edge (`int`, *optional*): Limit of the long edge at scale 1, which goes before `short_edge`.

    > Parameters that control the mixing of a batch's images (see [`~kaseg.data.BatchMixer`])

    mix (`str`, *optional*): Paste a part of one training image into another, labels alike: `"cutmix"` (a box) or
        `"classmix"` (half of the classes that an image shows). A teacher sees the mixed image, too. The stages of
        knowledge adaptation before distillation do not mix.
    mix_probability (`float`, *optional*, defaults to 0.5): Of each image to have something pasted into it.
    mix_of (`str`, *optional*, defaults to `"all"`): Mix all images of a batch, or the `"unlabelled"` alone, with one
        another.

    > Parameters that control evaluation

    eval_size (`int`, *optional*): Short edge to which images are resized before the network; labels keep their size
        and scores are taken at it. The images' own size by default.
    eval_max_long_edge (`int`, *optional*): Limit of the long edge in evaluation, which goes before `eval_size`.
    eval_size_divisor (`int`, *optional*): Pad images to multiples of it for evaluation, at the bottom and at the right
        with the mean colour. Scores never count padding.

    > Defaults that differ from `TrainingArguments`, with where they come from

    - `per_device_train_batch_size=16`, `learning_rate=0.007`, `weight_decay=4e-5`, `optim="sgd"` with momentum 0.9,
      `lr_scheduler_type="polynomial"` with power 0.9 down to 0: the paper's. The batch of 16 is meant globally: divide
      it by the number of processes and accumulation steps.
    - `max_steps=30000` unless `max_steps` or `num_train_epochs` is given (the paper's for VOC and Context; 90k for
      Cityscapes), hence `num_train_epochs=0`, which means "not given".
    - `max_grad_norm=0`: no clipping, as clipping at 1 would strangle the distillation terms.
    - `dataloader_drop_last=True`: a last batch of one image breaks the BatchNorm behind image pooling.
    - `per_device_eval_batch_size=1`: only images of one size share a forward pass; none is padded.
    - `remove_unused_columns=False`: images and masks are transformed lazily.
    - `logging_nan_inf_filter=False`: training stops at a loss or gradient that is not finite, where transformers logs 0
      and goes on. With fp16, steps that overflow are left out, and only 32 of them in a row are an error.
    - `logging_steps=50`, `save_total_limit=2`: our choice.
    - Weight decay spares biases and BatchNorm (one-dimensional parameters), as in DeepLab's own recipe.
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

    per_device_train_batch_size: int = field(
        default=16, metadata={"help": "Images per device and micro-batch (paper: 16 in all)."}
    )
    per_device_eval_batch_size: int = field(default=1, metadata={"help": "Images per device in evaluation."})
    learning_rate: float = field(default=0.007, metadata={"help": "Initial learning rate (paper)."})
    weight_decay: float = field(
        default=4e-5, metadata={"help": "Weight decay (paper); biases and BatchNorm are spared."}
    )
    optim: str = field(default="sgd", metadata={"help": "Optimizer (paper: SGD)."})
    optim_args: str | None = field(default=None, metadata={"help": "For sgd momentum=0.9 by default (paper)."})
    lr_scheduler_type: str = field(default="polynomial", metadata={"help": "Schedule (paper: poly)."})
    lr_scheduler_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "For polynomial by default power 0.9 (paper), down to 0."}
    )
    max_steps: int = field(
        default=-1, metadata={"help": "Steps; 30000 (paper: VOC, Context) unless num_train_epochs is given."}
    )
    num_train_epochs: float = field(default=0.0, metadata={"help": "Epochs, instead of max_steps."})
    max_grad_norm: float = field(
        default=0.0, metadata={"help": "Clip gradients to this norm; 0: never, as it would strangle distillation."}
    )
    dataloader_drop_last: bool = field(
        default=True, metadata={"help": "Drop a last short training batch: pooled BatchNorm cannot take one image."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay off: images and masks are transformed lazily."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Training stops at losses that are not finite, so none needs to be left out."}
    )
    logging_steps: float = field(default=50, metadata={"help": "Steps between two lines of the log."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep."})

    loss: str = field(default="cross_entropy", metadata={"help": f"Training loss on the labels: {', '.join(LOSSES)}."})
    class_weights: list[float] | None = field(default=None, metadata={"help": "One weight per class."})
    backbone_learning_rate_scale: float = field(
        default=1.0, metadata={"help": "Factor on learning_rate for the encoder."}
    )
    ema_decay: float | None = field(
        default=None, metadata={"help": "Evaluate and save a moving average of the weights with this decay."}
    )
    sync_batch_norm: bool = field(
        default=False, metadata={"help": "Statistics of BatchNorm over all processes (GPUs only)."}
    )
    crop_size: list[int] = field(
        default_factory=lambda: [513, 513], metadata={"help": "Height and width of the training crop in pixels."}
    )
    min_scale: float = field(default=0.5, metadata={"help": "Smallest random scale (DeepLab's recipe)."})
    max_scale: float = field(default=2.0, metadata={"help": "Largest random scale (DeepLab's recipe)."})
    scale_step: float | None = field(default=None, metadata={"help": "Step between random scales; uniform by default."})
    horizontal_flip: float = field(default=0.5, metadata={"help": "Probability of mirroring."})
    brightness: float = field(default=0.0, metadata={"help": "Strength of the brightness jitter."})
    contrast: float = field(default=0.0, metadata={"help": "Strength of the contrast jitter."})
    saturation: float = field(default=0.0, metadata={"help": "Strength of the saturation jitter."})
    hue: float = field(default=0.0, metadata={"help": "Strength of the hue jitter."})
    photometric_distortion: bool = field(
        default=False, metadata={"help": "Distort brightness, contrast, saturation and hue as SSD does."}
    )
    cat_max_ratio: float = field(
        default=1.0, metadata={"help": "Redraw crops of which one class has this share of the labels; 1: never."}
    )
    short_edge: int | None = field(
        default=None, metadata={"help": "Short edge that scale 1 stands for in training; own size by default."}
    )
    max_long_edge: int | None = field(default=None, metadata={"help": "Limit of the long edge beside short_edge."})
    mix: str | None = field(
        default=None, metadata={"help": "Mix the images of a batch: cutmix or classmix; not at all by default."}
    )
    mix_probability: float = field(default=0.5, metadata={"help": "Probability of an image to be mixed."})
    mix_of: str = field(default="all", metadata={"help": "Which images are mixed: all or unlabelled."})
    eval_size: int | None = field(
        default=None, metadata={"help": "Short edge that images are resized to for evaluation; own size by default."}
    )
    eval_max_long_edge: int | None = field(default=None, metadata={"help": "Limit of the long edge beside eval_size."})
    eval_size_divisor: int | None = field(
        default=None, metadata={"help": "Pad images to multiples of it for evaluation; padding is never scored."}
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
            if given := self._given(names):
                raise ValueError(f"{reason}, so {', '.join(given)} would change nothing: leave it out.")
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise ValueError(
                f"train_sampling_strategy must be 'random' or 'sequential', got {self.train_sampling_strategy!r}: "
                "images have no length to group them by."
            )
        if self.optim == "sgd" and (given := self._given(OF_ADAM)):
            raise ValueError(f"{', '.join(given)} would change nothing: the optimizer is SGD (optim='sgd').")
        if len(self.crop_size) != 2 or min(self.crop_size) < 1:
            raise ValueError(f"crop_size must be one or two positive numbers (height, width), got {self.crop_size}.")
        if not 0 < self.min_scale <= self.max_scale:
            raise ValueError(f"0 < min_scale <= max_scale is needed, got {self.min_scale} and {self.max_scale}.")
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {LOSSES}, got {self.loss!r}.")
        self._check_mix()
        if self.class_weights is not None and not all(0 <= weight < math.inf for weight in self.class_weights):
            raise ValueError(f"class_weights must be numbers from 0 on, got {self.class_weights}.")
        if self.backbone_learning_rate_scale < 0:
            raise ValueError(
                f"backbone_learning_rate_scale must not be negative, got {self.backbone_learning_rate_scale}."
            )
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must be above 0 and below 1, or left out, got {self.ema_decay}.")

    def _given(self, names: Collection[str]) -> list[str]:
        """Those of the fields that do not have their default."""
        given = []
        for item in fields(self):
            default = item.default if item.default_factory is MISSING else item.default_factory()
            if item.name in names and getattr(self, item.name) != default:
                given.append(item.name)
        return given

    def _check_mix(self) -> None:
        if self.mix is not None:
            # Here, since it imports datasets, which help does without.
            from kaseg.data.mixing import check_mix

            check_mix(self.mix, self.mix_probability, self.mix_of)
            if self.per_device_train_batch_size < 2:
                raise ValueError("mix takes the images of a batch, so per_device_train_batch_size must be at least 2.")
            return
        for item in dataclasses.fields(self):
            if item.name in ("mix_probability", "mix_of") and getattr(self, item.name) != item.default:
                raise ValueError(f"{item.name} changes nothing without mix: set mix, too, or leave it out.")

    @property
    def augmentation_seed(self) -> int:
        """Seed of the random crops, scales and colours: `data_seed` where it is given, as for the data order."""
        return self.seed if self.data_seed is None else self.data_seed


def check_mixed_images(args: SegmentationConfig, unlabelled: bool) -> None:
    """Raise a `ValueError` if images without masks are to be mixed and there are none."""
    if args.mix_of == "unlabelled" and not unlabelled:
        raise ValueError(
            "mix_of='unlabelled' mixes images without masks, but there are none: give them (unlabelled_dataset; in "
            "recipes unlabelled_dir or max_labelled_samples, and a teacher), or set mix_of to 'all'."
        )
