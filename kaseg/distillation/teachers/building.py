"""The teacher of a run, from whatever the user names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from kaseg.distillation.teachers.adapter import TeacherAdapter
from kaseg.distillation.teachers.label_matching import LabelMap
from kaseg.modeling_kaseg import KASegModel
from kaseg.pixels import Normalization


def build_teacher(
    teacher: str | Path | nn.Module,
    student: KASegModel,
    normalization: Normalization,
    tap: str | None = None,
    image_scale: float = 1.0,
    output_stride: int | None = None,
    label_map: LabelMap | None = None,
) -> TeacherAdapter:
    """The teacher of a run, which takes the student's images and speaks of its classes.

    Args:
        teacher (`str`, `Path`, `nn.Module` or [`TeacherAdapter`]): A Hub id or folder, or a network.
        student ([`KASegModel`]): The student.
        normalization ([`Normalization`]): That of the student's images.
        tap, image_scale, label_map: As in [`TeacherAdapter`]; `teacher_tap`, `teacher_scale` and `teacher_label_map`
            of a run.
        output_stride (`int`, *optional*): See [`~kaseg.distillation.teachers.output_stride.at_output_stride`];
            `teacher_output_stride` of a run.

    Raises:
        ValueError: the teacher is the student itself, or a [`TeacherAdapter`] that was made with other options, or one
            that cannot have this stride.
    """
    labels = student.config.id2label
    if isinstance(teacher, nn.Module) and any(module is student for module in teacher.modules()):
        raise ValueError(
            "The teacher is the student itself, which would be frozen: pass a copy (copy.deepcopy(model))."
        )
    if isinstance(teacher, TeacherAdapter):
        if tap is not None:
            raise ValueError(
                f"teacher_tap={tap!r} is given, but the teacher is a TeacherAdapter that reads "
                f"{teacher.tap} already: name the tap there, TeacherAdapter(model, tap=...)."
            )
        if image_scale not in (1.0, teacher.image_scale):
            raise ValueError(
                f"teacher_scale={image_scale} is given, but the teacher is a TeacherAdapter with an image_scale "
                f"of {teacher.image_scale}: set it there, TeacherAdapter(model, image_scale=...)."
            )
        if output_stride not in (None, teacher.output_stride):
            raise ValueError(
                f"teacher_output_stride={output_stride} is given, but the teacher is a TeacherAdapter already: set it "
                "there, TeacherAdapter(model, output_stride=...)."
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
        "tap": tap,
        "image_scale": image_scale,
        "student_mean": normalization.mean,
        "student_std": normalization.std,
        "student_labels": labels,
        "label_map": label_map,
        "output_stride": output_stride,
    }
    return TeacherAdapter(teacher, **options)
