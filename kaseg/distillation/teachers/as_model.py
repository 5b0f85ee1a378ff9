"""A teacher as a model that can be scored: what it makes of a dataset's classes."""

from collections.abc import Mapping

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import SemanticSegmenterOutput

from kaseg.distillation.teachers.adapter import TeacherAdapter
from kaseg.image_processing_kaseg import KASegImageProcessor


class TeacherModel(nn.Module):
    """A teacher with the interface of a segmentation model of the classes `id2label`, for
    [`~kaseg.evaluation.evaluator.evaluate_model`]; a ValueError if it does not know all of them.

    Its logits are those that a student with these classes learns from: the teacher's other classes are left out,
    several that make up one are added up, and maps are brought to their place in the image.
    """

    def __init__(self, teacher: TeacherAdapter | str, id2label: Mapping[int, str]) -> None:
        super().__init__()
        if isinstance(teacher, str):
            teacher = TeacherAdapter.from_pretrained(teacher)
        self.processor = KASegImageProcessor()
        teacher.expect_images(self.processor.image_mean, self.processor.image_std)
        match = teacher.match(id2label)
        if len(match.groups) < len(id2label):
            raise ValueError(f"A teacher is scored on classes that it knows, but {match.report()}.")
        self.teacher = teacher
        self.config = PreTrainedConfig(id2label=dict(id2label), label2id={name: i for i, name in id2label.items()})

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, pixel_values: torch.Tensor) -> SemanticSegmenterOutput:
        """Images (B, 3, H, W) as `processor` prepares them -> logits (B, classes, h, w)."""
        return SemanticSegmenterOutput(logits=self.teacher(pixel_values).logits)
