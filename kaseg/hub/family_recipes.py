"""Recipes of the paper's models, in which every value says where it comes from and how sure that is."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from kaseg.checkpoints import NAMESPACE
from kaseg.hub.families import Member

_HEADER = """\
Recipe of {name}: every value with its origin.
paper, HIGH: in the authors' own text or figure, or quoted from it word for word (He et al., CVPR 2019).
ours: our choice; MED, LOW and UNKNOWN say what is known of the paper's own value (MED: paraphrased, or two weak \
sources agree; LOW: inferred; UNKNOWN: not recovered).
"""


class Line(NamedTuple):
    """A field of the recipe, its value and the value's origin."""

    field: str
    value: Any
    origin: str


def recipe_lines(member: Member) -> list[Line]:
    """The fields of `kaseg train` or, for an adapted student, `kaseg distill`."""
    lines = [*_model(member), *_data(member), *_training(member)]
    return [*lines, *_adaptation(member)] if member.kind == "ka" else lines


def recipe_text(member: Member) -> str:
    """`recipe.yaml`: one commented line per field."""
    header = _HEADER.format(name=member.name) + member.benchmark.note
    comment = "\n".join(
        line for part in header.splitlines() for line in textwrap.wrap(part, 116, subsequent_indent="  ")
    )
    fields = [f"{_yaml(line)}  # {line.origin}" for line in recipe_lines(member)]
    return textwrap.indent(comment, "# ") + "\n" + "\n".join(fields) + "\n"


def _yaml(line: Line) -> str:
    # Lists and mappings on the line of their field.
    flow = None if isinstance(line.value, list | dict) else False
    return yaml.safe_dump({line.field: line.value}, default_flow_style=flow).strip()


def _model(member: Member) -> Iterator[Line]:
    yield Line("backbone", member.backbone, "paper, HIGH")
    if member.kind == "teacher":
        yield Line("output_stride", member.output_stride, "ours; UNKNOWN")
        yield Line("head", member.head, "paper, HIGH: ASPP; ours, MED: the decoder of DeepLabV3+")
        yield Line("separable_head", True, "ours, as in DeepLabV3+; UNKNOWN")
    else:
        known = "paper, HIGH: Figure 1" if member.benchmark.scores else "ours: the strides of the paper's Figure 1"
        yield Line("output_stride", member.output_stride, known)
        yield Line(
            "head", member.head, "paper, HIGH: no ASPP, no decoder; ours, MED: its layers, pinned by the paper's FLOPs"
        )
    yield Line("classifier_dropout_prob", 0.1, "ours; UNKNOWN")
    yield Line("pretrained_backbone", True, "ours; LOW: the scores fit a start from ImageNet")


def _data(member: Member) -> Iterator[Line]:
    benchmark = member.benchmark
    yield Line("dataset", benchmark.dataset, "paper, HIGH")
    yield Line("train_split", benchmark.train_split, "paper, HIGH")
    yield Line("eval_split", "validation", "ours; the paper's protocol of evaluation is UNKNOWN")
    yield Line(
        "crop_size", [benchmark.crop, benchmark.crop], "ours; LOW: from the DeepLab recipe that the paper follows"
    )
    yield Line("min_scale", 0.5, "paper, HIGH: random scales; ours, LOW: the range, from DeepLab")
    yield Line("max_scale", 2.0, "as min_scale")
    yield Line("horizontal_flip", 0.5, "paper, HIGH: random flips; ours: the probability")


def _training(member: Member) -> Iterator[Line]:
    yield Line("loss", "cross_entropy", "paper, HIGH")
    yield Line(
        "per_device_train_batch_size", 16, "paper, HIGH: 16 in all; divide it by processes and accumulation steps"
    )
    yield Line(
        "max_steps", member.benchmark.steps, "paper, HIGH: the teacher's; the student's settings are mostly the same"
    )
    yield Line("optim", "sgd", "paper, HIGH")
    yield Line("optim_args", "momentum=0.9", "paper, HIGH")
    yield Line("learning_rate", 0.007, "paper, HIGH")
    yield Line("weight_decay", 4e-5, "paper, HIGH: printed 4x10e-5")
    yield Line("lr_scheduler_type", "polynomial", "paper, HIGH")
    yield Line("lr_scheduler_kwargs", {"power": 0.9, "lr_end": 0.0}, "paper, HIGH: the power; ours: down to 0")
    yield Line("max_grad_norm", 0.0, "ours: no clipping, which would strangle the distillation terms; UNKNOWN")
    yield Line("seed", 1, "ours: the same for a student and its twin")


def _adaptation(member: Member) -> Iterator[Line]:
    yield Line("teacher", f"{NAMESPACE}/{member.teacher.name}", "paper, HIGH: one of its two; ours: which one; UNKNOWN")
    yield Line("adaptation_weight", 50.0, "beta; paper, HIGH")
    yield Line("affinity_weight", 1.0, "gamma; paper, HIGH")
    yield Line("distillation_schedule", "constant", "paper, HIGH: one weight each")
    yield Line("adaptation_p", 1.0, "ours; MED: torchdistill's")
    yield Line("adaptation_q", 2.0, "ours; MED: torchdistill's")
    yield Line("squared_affinity_rows", False, "ours; UNKNOWN")
    yield Line("latent_channels", 128, "ours; UNKNOWN")
    yield Line("autoencoder_epochs", 1.0, "paper, HIGH")
    yield Line("autoencoder_max_steps", 600, "ours: at least so many, if an epoch is shorter")
    yield Line("autoencoder_learning_rate", 0.1, "paper, HIGH")
    yield Line("autoencoder_weight_decay", 1e-4, "paper, HIGH as printed (10e-4); ours, MED: read as 1e-4")
    yield Line("sparsity_weight", 1e-7, "alpha; paper, HIGH as printed (10e-7); ours, MED: read as 1e-7")
