"""Which of the student's classes a teacher knows, and how its logits become logits of these classes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from kaseg.close_names import did_you_mean

ClassReference = str | int
LabelMap = Mapping[ClassReference, ClassReference | Sequence[ClassReference] | None]


@dataclass(frozen=True)
class LabelMatch:
    """The classes of a student and of its teacher, and which belong together.

    Args:
        student, teacher: Names of their classes, by id.
        groups: Student's id -> the teacher's ids that make up this class, for the classes that the teacher knows, in
            the student's order.
    """

    student: tuple[str, ...]
    teacher: tuple[str, ...]
    groups: Mapping[int, tuple[int, ...]]

    @property
    def known_classes(self) -> tuple[int, ...]:
        """Ids of the student's classes that the teacher knows, ascending."""
        return tuple(self.groups)

    def student_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """The teacher's logits (B, C_teacher, h, w) as logits of `known_classes` (B, K, h, w); a ValueError if they are
        of another number of classes.

        Where several of the teacher's classes make up one, the log of the sum of their exponentials is taken: under a
        softmax their probabilities add up (our choice). The teacher's other classes are left out, so that a softmax
        gives the teacher's belief on condition that the pixel is of a known class.
        """
        if logits.shape[1] != len(self.teacher):
            raise ValueError(
                f"The teacher gives logits of {logits.shape[1]} classes, but {len(self.teacher)} class names were "
                "given for it. Correct class_names (or id2label of its config)."
            )
        groups = list(self.groups.values())
        if all(len(group) == 1 for group in groups):
            order = [group[0] for group in groups]
            return logits if order == list(range(logits.shape[1])) else logits[:, order]
        return torch.cat([logits[:, list(group)].logsumexp(1, keepdim=True) for group in groups], dim=1)

    def report(self) -> str:
        """Who was matched with whom, and which of the student's classes the teacher does not know."""
        if self.student == self.teacher and all(group == (index,) for index, group in self.groups.items()):
            return f"the teacher has the student's {len(self.student)} classes"
        pairs = ", ".join(
            f"{self.student[index]} = {' + '.join(self.teacher[i] for i in group)}"
            for index, group in self.groups.items()
        )
        unknown = ", ".join(name for index, name in enumerate(self.student) if index not in self.groups)
        return (
            f"the teacher ({len(self.teacher)} classes) knows {len(self.groups)} of the student's {len(self.student)}"
            + (f": {pairs}" if pairs else "")
            + (f"; it does not know {unknown}" if unknown else "")
        )


def match_labels(student: Sequence[str], teacher: Sequence[str], label_map: LabelMap | None = None) -> LabelMatch:
    """Match the student's classes with the teacher's: as `label_map` says, and by name for classes it does not name.

    Names are compared without regard to case, spaces and punctuation ("dining table" is "DiningTable"). Classes without
    names of their own (`LABEL_0`, ...) on either side count as the same classes in the same order if there are as many
    of them on both sides and no `label_map`, and as unknown otherwise.

    Args:
        student, teacher: Names of their classes, by id.
        label_map: Student's class (name or id) -> one of the teacher's, several of them that make it up together, or
            `None` if the teacher shall not be asked about it.

    Raises:
        ValueError: `label_map` names a class that does not exist, or one of the teacher's stands for two of the
            student's.
    """
    student, teacher = tuple(student), tuple(teacher)
    told = {
        _index(key, student, "the student"): tuple(_index(v, teacher, "the teacher") for v in _listed(value))
        for key, value in (label_map or {}).items()
    }
    nameless = _is_nameless(student) or _is_nameless(teacher)
    by_name: dict[str, list[int]] = {}
    for index, name in enumerate(teacher):
        by_name.setdefault(_normalized(name), []).append(index)
    groups: dict[int, tuple[int, ...]] = {}
    for index, name in enumerate(student):
        if index in told:
            group = told[index]
        elif nameless:
            group = (index,) if len(student) == len(teacher) and not told else ()
        else:
            group = tuple(by_name.get(_normalized(name), ()))
        if group:
            groups[index] = group
    _check_used_once(groups, student, teacher)
    return LabelMatch(student, teacher, groups)


def _check_used_once(groups: Mapping[int, tuple[int, ...]], student: tuple[str, ...], teacher: tuple[str, ...]) -> None:
    users: dict[int, int] = {}
    for index, group in groups.items():
        for theirs in group:
            if theirs in users:
                raise ValueError(
                    f"The teacher's class {teacher[theirs]!r} stands for two of the student's, "
                    f"{student[users[theirs]]!r} and {student[index]!r}. How it divides between them cannot be known: "
                    f"give one of them another class in teacher_label_map, or null."
                )
            users[theirs] = index


def _listed(value: ClassReference | Sequence[ClassReference] | None) -> Sequence[ClassReference]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str | int) else value


def _index(reference: ClassReference, names: tuple[str, ...], whose: str) -> int:
    if isinstance(reference, int):
        if 0 <= reference < len(names):
            return reference
        raise ValueError(f"teacher_label_map names class {reference}, but {whose} has ids 0 to {len(names) - 1}.")
    normalized = [_normalized(name) for name in names]
    if _normalized(reference) in normalized:
        return normalized.index(_normalized(reference))
    hint = did_you_mean(reference, names, key=_normalized, otherwise=f" Its classes: {', '.join(names)}.")
    raise ValueError(f"teacher_label_map names {reference!r}, which is no class of {whose}.{hint}")


def _normalized(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _is_nameless(names: tuple[str, ...]) -> bool:
    return all(re.fullmatch(r"(LABEL_)?\d+", name) for name in names)
