"""The teacher of a run, from whatever the user names."""

from pathlib import Path

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
    """The teacher of a run, from a Hub id or folder, or a network: it takes the student's images, of this
    `normalization`, and speaks of its classes. The other arguments are those of [`TeacherAdapter`], whose names in a
    run begin with `teacher_`.

    Raises:
        ValueError: the teacher is the student itself, or a [`TeacherAdapter`] that was made with other options, or for
            other images or classes.
    """
    labels = student.config.id2label
    if isinstance(teacher, nn.Module) and any(module is student for module in teacher.modules()):
        raise ValueError(
            "The teacher is the student itself, which would be frozen: pass a copy (copy.deepcopy(model))."
        )
    if isinstance(teacher, TeacherAdapter):
        for argument, value, allowed in (
            ("tap", tap, (None,)),
            ("image_scale", image_scale, (1.0, teacher.image_scale)),
            ("output_stride", output_stride, (None, teacher.output_stride)),
        ):
            if value not in allowed:
                field = f"teacher_{argument.removeprefix('image_')}"
                raise ValueError(
                    f"{field}={value!r} is given, but the teacher is a TeacherAdapter already, whose {argument} is "
                    f"{getattr(teacher, argument)}: set it there, TeacherAdapter(model, {argument}=...)."
                )
        images = (tuple(normalization.mean), tuple(normalization.std))
        if teacher.expected_images is None:
            teacher.expect_images(*images)
        elif teacher.expected_images != images:
            raise ValueError(
                "The teacher expects images of mean {} and standard deviation {}, but the student's image processor "
                "gives them with mean {} and standard deviation {}: call teacher.expect_images with the latter.".format(
                    *teacher.expected_images, *images
                )
            )
        if teacher.label_match is None or label_map:
            teacher.match(labels, label_map)
        elif teacher.label_match.student != tuple(labels[index] for index in sorted(labels)):
            raise ValueError(
                f"The teacher was matched with the classes {', '.join(teacher.label_match.student)}, but the student "
                f"has {', '.join(labels.values())}: give TeacherAdapter student_labels=student.config.id2label."
            )
        return teacher
    return TeacherAdapter(
        teacher,
        tap=tap,
        student_mean=normalization.mean,
        student_std=normalization.std,
        student_labels=labels,
        label_map=label_map,
        image_scale=image_scale,
        output_stride=output_stride,
    )
