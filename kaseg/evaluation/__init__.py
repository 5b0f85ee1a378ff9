"""Scores of segmentation maps: confusion matrix, mean IoU, inference protocols and boundary quality."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kaseg.evaluation.boundary import BoundaryCounts
from kaseg.evaluation.confusion_matrix import ConfusionMatrix, iou_scores
from kaseg.evaluation.evaluator import evaluate_model
from kaseg.evaluation.protocols import InferenceProtocol

if TYPE_CHECKING:
    from kaseg.evaluation.mean_iou import MeanIoU

__all__ = ["BoundaryCounts", "ConfusionMatrix", "InferenceProtocol", "MeanIoU", "evaluate_model", "iou_scores"]


def __getattr__(name: str) -> Any:
    # Importing evaluate takes seconds, and only MeanIoU needs it.
    if name == "MeanIoU":
        from kaseg.evaluation.mean_iou import MeanIoU

        return MeanIoU
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
