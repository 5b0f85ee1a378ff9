"""The teacher's logits, put right where labels contradict them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kaseg.distillation.terms import labels_at


def corrected_logits(logits: Tensor, labels: Tensor, classes: Sequence[int] | None = None) -> Tensor:
    """The teacher's logits, where its class is not the label with the logits of the two swapped.

    What it believes of the other classes stays (probability shift, Wen et al., arXiv 1911.07471, 2019). Positions that
    are void, or of a class that it does not know, stay as they are.

    Args:
        logits: (B, C, h, w), which stay as they are.
        labels: Class ids and void (B, H, W) of the images' size, taken at the nearest pixel of each position.
        classes: The class that each of the C logits is of; 0 to C - 1 by default.

    Returns:
        (B, C, h, w), of the same type. That it is done per position is our choice.
    """
    known = torch.arange(logits.shape[1]) if classes is None else torch.tensor(classes)
    is_label = labels_at(labels, logits.shape[-2:])[:, None] == known.to(labels)[:, None, None]
    predicted = logits.argmax(1, keepdim=True)
    right = torch.where(is_label.any(1, keepdim=True), is_label.int().argmax(1, keepdim=True), predicted)
    swapped = logits.scatter(1, predicted, logits.gather(1, right))
    return swapped.scatter(1, right, logits.gather(1, predicted))
