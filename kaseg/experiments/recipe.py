"""What a run is made of, beside the trainer's own arguments: model, data and teacher."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kaseg.trainer.options import option


@dataclass
class ModelArguments:
    """Which network is trained: a checkpoint with its own architecture, or a new one built from the other fields."""

    model: str | None = option(None, "Checkpoint to fine-tune (Hub id, folder or shipped); a new model by default.")
    backbone: str = option("mobilenetv2_100", "timm encoder (paper: MobileNetV2).")
    output_stride: int = option(16, "Stride of the last map: 4, 8, 16 or 32 (paper: 16).")
    head: str = option("student", "student (paper), deeplabv3plus (for teachers), lraspp, mlp or fpn.")
    separable_head: bool = option(True, "Separable 3x3 convolutions in deeplabv3plus, fpn.")
    classifier_dropout_prob: float = option(0.1, "Dropout before the classifier.")
    freeze_batch_norm: bool = option(False, "Keep BatchNorm fixed.")
    pad_to_stride: bool = option(False, "Pad images to multiples of the stride, so that logits are not stretched.")
    pretrained_backbone: bool = option(True, "Start from timm's ImageNet weights.")
    backbone_weights: str | None = option(None, "Local file of encoder weights in timm's layout instead of a download.")
    encoder_from: str | None = option(
        None,
        "Checkpoint whose trained encoder and normalization a new model starts from, instead of backbone and its "
        "ImageNet weights: one of kaseg's, or a transformers MobileNetV2 DeepLab.",
    )


@dataclass
class DataArguments:
    """Which data the network is trained and evaluated on."""

    dataset: str = option("scenes", "Name, folder or Hub id of the dataset.")
    data_dir: str | None = option(None, "Folder of a named dataset.")
    label_space: str | None = option(
        None, "File of class names, or a known dataset with the same classes; needed for Hub datasets."
    )
    image_column: str | None = option(None, "Column of a Hub dataset's images; guessed.")
    label_column: str | None = option(None, "Column of a Hub dataset's masks; guessed.")
    config_name: str | None = option(None, "Configuration of a Hub dataset.")
    revision: str | None = option(None, "Branch, tag or commit of a Hub dataset.")
    image_folder: str | None = option(None, "Own folder: name in place of images.")
    label_folder: str | None = option(None, "Own folder: name in place of masks.")
    on_error: str = option("raise", "Bad samples: raise, or skip, which checks all first and lists them.")
    train_split: str = option("train", "Split to train on.")
    eval_split: str = option("validation", "Split to evaluate on.")
    max_train_samples: int | None = option(None, "Use the first N samples only.")
    max_labelled_samples: int | None = option(
        None,
        "Use the masks of N training samples only, spread evenly; kaseg distill learns from the "
        "images of the others, too.",
    )
    max_eval_samples: int | None = option(None, "Use the first N samples only.")
    measure_latency: bool = option(False, "Time one image of 513x513 at the end, for results.json and the card.")


@dataclass
class TeacherArguments:
    """Who teaches, and with which further images."""

    teacher: str = option("", "Teacher: Hub id, folder or shipped checkpoint.")
    autoencoder: str | None = option(None, "Folder of a fitted autoencoder; by default one is fitted first.")
    unlabelled_dir: str | None = option(None, "Folder of images without masks, which teach the student, too.")


def build_arguments(parts: Sequence[type], values: Mapping[str, Any]) -> list[Any]:
    """One instance per dataclass; fields without a value keep their default."""
    names = [{item.name for item in dataclasses.fields(part) if item.init} for part in parts]
    return [
        part(**{name: value for name, value in values.items() if name in own})
        for part, own in zip(parts, names, strict=True)
    ]
