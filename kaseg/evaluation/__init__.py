"""Scores of segmentation maps: confusion matrix, mean IoU, inference protocols and boundary quality."""

from typing import TYPE_CHECKING

from kaseg.evaluation.boundary import BoundaryCounts
from kaseg.evaluation.confusion_matrix import ConfusionMatrix, iou_scores
from kaseg.evaluation.evaluator import evaluate_model
from kaseg.evaluation.protocols import InferenceProtocol
from kaseg.lazy import import_on_use

if TYPE_CHECKING:
    from kaseg.evaluation.mean_iou import MeanIoU as MeanIoU

# Importing evaluate takes seconds, and only MeanIoU needs it.
__getattr__, __dir__, __all__ = import_on_use(__name__, {"mean_iou": ["MeanIoU"]})
__all__ += ["BoundaryCounts", "ConfusionMatrix", "InferenceProtocol", "evaluate_model", "iou_scores"]
