"""What a teacher's forward pass returns, in one form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from kaseg.distillation.teachers.query_maps import class_scores_from_queries


@dataclass
class TeacherOutput:
    """`features` (B, c_t, h_t, w_t): the tapped map. `logits` (B, K, h, w): of the teacher's own classes, or once its
    labels were matched, of the classes `known_classes` of the student; `None` if there are none."""

    features: torch.Tensor
    logits: torch.Tensor | None


def logits_of(output: Any) -> torch.Tensor | None:
    """Logits (B, C, h, w) of what a network returns, if there are any."""
    if isinstance(output, tuple | list) and output and not isinstance(output, Mapping):
        output = output[0]
    if hasattr(output, "class_queries_logits"):
        return class_scores_from_queries(output.class_queries_logits, output.masks_queries_logits)
    if isinstance(output, Mapping):
        output = output.get("logits", output.get("out"))
    elif not isinstance(output, torch.Tensor):
        output = getattr(output, "logits", None)
    return output if isinstance(output, torch.Tensor) and output.ndim == 4 else None
