"""The student with its adapters in one module: what is trained where a teacher teaches."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput

from kaseg.distillation.autoencoder import FeatureAutoencoder
from kaseg.distillation.balance import GradientBalance
from kaseg.distillation.map_shape import MapShape
from kaseg.distillation.teachers.adapter import TeacherOutput
from kaseg.distillation.terms import DistillationTerm
from kaseg.modeling_kaseg import KASegModel


@dataclass
class StudentOutput(ModelOutput):
    """Logits of the student and, with a teacher's maps, the distillation terms by name (scalars, not weighted)."""

    logits: torch.Tensor | None = None
    terms: dict[str, torch.Tensor] | None = None


def checked_student(model: Any) -> KASegModel:
    """The model, if it is a [`KASegModel`], else a ValueError that says how one is had."""
    if isinstance(model, KASegModel):
        return model
    raise ValueError(
        f"The student is a KASegModel, not a {type(model).__name__}: KASegModel.from_pretrained loads one, "
        "KASegModel(KASegConfig(...)) makes one, and KASegModel.from_transformers makes one of a "
        "MobileNetV2ForSemanticSegmentation. Any other network is fine-tuned with SegmentationTrainer, or teaches."
    )


class StudentWithAdapters(nn.Module):
    """The student and the adapters that exist only while it is taught: all that is trained, in one module.

    Args:
        student, terms, balance: The parts.
        tap: Index of the student's tapped map in its `hidden_states`.
        known_classes: The student's classes that the teacher's logits are of; all by default.
    """

    main_input_name = "pixel_values"
    accepts_loss_kwargs = False
    _keys_to_ignore_on_save = None

    def __init__(
        self,
        student: KASegModel,
        terms: dict[str, DistillationTerm],
        tap: int,
        known_classes: list[int] | None = None,
        balance: GradientBalance | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.config = student.config
        self.tap = tap
        self.known_classes = known_classes
        self.terms = nn.ModuleDict(terms)
        self.balance = balance

    @property
    def sources(self) -> set[str]:
        """What the terms read of the teacher."""
        return {term.source for term in self._named_terms().values()}

    @property
    def adapted_terms(self) -> dict[str, DistillationTerm]:
        """The terms that have an adapter."""
        return {name: term for name, term in self._named_terms().items() if term.adapter is not None}

    def _named_terms(self) -> dict[str, DistillationTerm]:
        return dict(self.terms.items())  # type: ignore[arg-type]

    @contextmanager
    def recorded_map(self) -> Iterator[list[torch.Tensor]]:
        """Inside, the tapped map is put into the list given back, as the network computes it: before padding is cropped
        and types change."""
        maps: list[torch.Tensor] = []
        count = len(self.student.encoder.channels)
        index = self.tap % (count + 1)

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            maps.append(output if index == count else output[index])

        handle = (self.student.head if index == count else self.student.encoder).register_forward_hook(keep)
        try:
            yield maps
        finally:
            handle.remove()

    def adapter_state_dict(self) -> dict[str, torch.Tensor]:
        """All tensors but the student's: the adapters, and what the balance and the losses have measured."""
        return {k: v.contiguous() for k, v in self.state_dict().items() if not k.startswith("student.")}

    def forward(
        self,
        pixel_values: torch.Tensor,
        teacher: dict[str, torch.Tensor] | None = None,
        labels: torch.Tensor | None = None,
    ) -> StudentOutput:
        """Images (B, 3, H, W); the teacher's maps by name (`code`, `features`, `logits`) as the terms read them; labels
        (B, H, W) if a term needs them. Without maps there are logits alone."""
        if teacher is None:
            return StudentOutput(logits=self.student(pixel_values).logits)
        outputs = self.student(pixel_values, output_hidden_states=True)
        features = outputs.hidden_states[self.tap]
        terms = {}
        for name, term in self._named_terms().items():
            student = features
            if term.source == "logits":
                known = self.known_classes
                student = outputs.logits if known is None else outputs.logits[:, known]
            terms[name] = term(student, teacher[term.source], pixel_values.shape[-2:], labels)
        return StudentOutput(logits=outputs.logits, terms=terms)


def teacher_output(teacher: nn.Module, inputs: Mapping[str, torch.Tensor]) -> TeacherOutput:
    """The teacher's maps of a batch: those that the data bring along (`teacher_features`, `teacher_logits`, from
    [`~kaseg.distillation.teachers.maps.TeacherMaps`]), or those of a pass over `pixel_values`."""
    features, logits = inputs.get("teacher_features"), inputs.get("teacher_logits")
    if features is None and logits is None:
        return teacher(inputs["pixel_values"])
    return TeacherOutput(features, logits)  # type: ignore[arg-type]  # what no term reads is not brought along


@torch.no_grad()
def teacher_maps(
    teacher: nn.Module, autoencoder: FeatureAutoencoder | None, sources: set[str], inputs: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The maps of the teacher that terms read, by source (`"code"`, `"features"`, `"logits"`), and nothing else; see
    [`teacher_output`] for `inputs`."""
    if not sources:
        return {}
    output = teacher_output(teacher, inputs)
    maps: dict[str, Any] = {"features": output.features, "logits": output.logits}
    if "code" in sources:
        assert autoencoder is not None  # train() has seen to it
        maps["code"] = autoencoder.encode(output.features).float()
    return {name: maps[name] for name in sources}


def student_map_shapes(student: KASegModel, tap: int) -> dict[str, MapShape]:
    """Channels and strides of the student's tapped `features` and of its `logits`; a ValueError if there is no map
    `tap` in its `hidden_states`."""
    maps = [
        *zip(student.encoder.channels, student.encoder.reductions, strict=True),
        (student.config.head_channels, student.feature_stride),
    ]
    if not -len(maps) <= tap < len(maps):
        described = ", ".join(f"{i}: {c} channels at stride {s}" for i, (c, s) in enumerate(maps))
        raise ValueError(f"student_tap={tap}, but the student has the maps {described} (or counted from the end, -1).")
    features = MapShape(*maps[tap])
    return {"features": features, "logits": MapShape(student.config.num_labels, student.feature_stride)}
