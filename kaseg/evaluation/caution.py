"""A warning beside scores that need no skill."""

from collections.abc import Mapping
from typing import Any


def caution(scores: Mapping[str, Any]) -> str:
    """Gives a warning where scores of [`~kaseg.evaluation.iou_scores`] are of labels or predictions of one class alone,
    and "" elsewhere."""
    labelled, predicted = scores.get("num_reference_classes"), scores.get("num_predicted_classes")
    if labelled == 0:
        return "No pixel has a label, so there is no score."
    sentences = []
    if labelled == 1:
        sentences.append(
            "The labels hold one class alone: a mask of that class everywhere scores 100 %, so these scores do not "
            "tell whether the model can tell classes apart."
        )
    if predicted == 1:
        sentences.append("The model predicts one and the same class for every pixel.")
    return " ".join(sentences)
