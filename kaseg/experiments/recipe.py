"""What a run is made of, beside the trainer's own arguments: model, data and teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ModelArguments:
    """Which network is trained: a checkpoint with its own architecture, or a new one built from the other fields."""

    model: str | None = field(
        default=None, metadata={"help": "Checkpoint to fine-tune (Hub id, folder or shipped); a new model by default."}
    )
    backbone: str = field(default="mobilenetv2_100", metadata={"help": "timm encoder (paper: MobileNetV2)."})
    output_stride: int = field(default=16, metadata={"help": "Stride of the last map: 4, 8, 16 or 32 (paper: 16)."})
    head: str = field(
        default="student", metadata={"help": "student (paper), deeplabv3plus (for teachers), lraspp, mlp or fpn."}
    )
    separable_head: bool = field(default=True, metadata={"help": "Separable 3x3 convolutions in deeplabv3plus, fpn."})
    classifier_dropout_prob: float = field(default=0.1, metadata={"help": "Dropout before the classifier."})
    freeze_batch_norm: bool = field(default=False, metadata={"help": "Keep BatchNorm fixed."})
    pad_to_stride: bool = field(
        default=False, metadata={"help": "Pad images to multiples of the stride, so that logits are not stretched."}
    )
    pretrained_backbone: bool = field(default=True, metadata={"help": "Start from timm's ImageNet weights."})
    backbone_weights: str | None = field(
        default=None, metadata={"help": "Local file of encoder weights in timm's layout instead of a download."}
    )
    encoder_from: str | None = field(
        default=None,
        metadata={
            "help": "Checkpoint whose trained encoder and normalisation a new model starts from, instead of backbone "
            "and its ImageNet weights: one of kaseg's, or a transformers MobileNetV2 DeepLab."
        },
    )


@dataclass
class DataArguments:
    """Which data the network is trained and evaluated on."""

    dataset: str = field(default="scenes", metadata={"help": "Name, folder or Hub id of the dataset."})
    data_dir: str | None = field(default=None, metadata={"help": "Folder of a named dataset."})
    label_space: str | None = field(
        default=None,
        metadata={"help": "File of class names, or a known dataset with the same classes; needed for Hub datasets."},
    )
    image_column: str | None = field(default=None, metadata={"help": "Column of a Hub dataset's images; guessed."})
    label_column: str | None = field(default=None, metadata={"help": "Column of a Hub dataset's masks; guessed."})
    config_name: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub dataset."})
    image_folder: str | None = field(default=None, metadata={"help": "Own folder: name in place of images."})
    label_folder: str | None = field(default=None, metadata={"help": "Own folder: name in place of masks."})
    on_error: str = field(
        default="raise", metadata={"help": "Bad samples: raise, or skip, which checks all first and lists them."}
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split: str = field(default="validation", metadata={"help": "Split to evaluate on."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Use only the first so many samples."})
    max_labelled_samples: int | None = field(
        default=None,
        metadata={
            "help": "Use the masks of so many training samples only, spread evenly; kaseg distill learns from the "
            "images of the others, too."
        },
    )
    max_eval_samples: int | None = field(default=None, metadata={"help": "Use only the first so many samples."})
    measure_latency: bool = field(
        default=False, metadata={"help": "Time one image of 513x513 at the end, for results.json and the card."}
    )


@dataclass
class TeacherArguments:
    """Who teaches, and with which further images."""

    teacher: str = field(default="", metadata={"help": "Teacher: Hub id, folder or shipped checkpoint."})
    autoencoder: str | None = field(
        default=None, metadata={"help": "Folder of a fitted autoencoder; by default one is fitted first."}
    )
    unlabelled_dir: str | None = field(
        default=None, metadata={"help": "Folder of images without masks, which teach the student, too."}
    )


# The fields of DataArguments that load_segmentation_dataset takes as they are.
LOADING_OPTIONS = (
    "image_column",
    "label_column",
    "config_name",
    "revision",
    "image_folder",
    "label_folder",
    "on_error",
)


def build_arguments(parts: Sequence[type], values: Mapping[str, Any]) -> list[Any]:
    """One instance per dataclass; fields without a value keep their default."""
    names = [{item.name for item in dataclasses.fields(part) if item.init} for part in parts]
    return [
        part(**{name: value for name, value in values.items() if name in own})
        for part, own in zip(parts, names, strict=True)
    ]
