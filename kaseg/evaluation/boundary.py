"""Boundary IoU: agreement of two label maps near the borders of their regions."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kaseg.evaluation.confusion_matrix import as_integers, mean_of_present

DILATION_RATIO = 0.02


class BoundaryCounts:
    r"""Counts what boundary IoU needs, one image at a time, in a few numbers per class.

    The boundary \(G_d\) of class c is the set of its pixels within Chebyshev distance d of a pixel that is not c, or of
    the outside of the image; d is `dilation_ratio` times the image's diagonal, rounded, and at least 1. That is what d
    erosions with a 3x3 square remove, with the image's border counted as in the official code (Cheng et al. 2021,
    "Boundary IoU", section 4; `mask_to_boundary` in boundary-iou-api). With \(P_d\) the same for the prediction,
    \(\mathrm{IoU}_c = \sum |G_d \cap P_d| / \sum |G_d \cup P_d|\).

    The paper is about single objects. Our choices for semantic maps: the sums run over all images first, as for mean
    IoU; void pixels of the reference are void in the prediction too, are in no boundary, and make none. So a prediction
    that is right wherever there is a label scores 1.

    Args:
        num_labels: Number of classes C; labels are 0..C-1.
        ignore_index: Reference value of void pixels.
        dilation_ratio: d as a part of the diagonal; the paper's value.
        device: Where to count; inputs are moved there.
    """

    def __init__(
        self,
        num_labels: int,
        ignore_index: int = 255,
        dilation_ratio: float = DILATION_RATIO,
        device: str | torch.device = "cpu",
    ) -> None:
        if num_labels < 1 or dilation_ratio <= 0:
            raise ValueError(f"num_labels and dilation_ratio must be positive, got {num_labels} and {dilation_ratio}.")
        self.num_labels = num_labels
        self.ignore_index = ignore_index
        self.dilation_ratio = dilation_ratio
        self.device = torch.device(device)
        #: int64 (3, C): pixels of the intersection, of the reference's boundary and of the prediction's, per class.
        self.counts = torch.zeros(3, num_labels, dtype=torch.int64, device=self.device)

    def update(self, predictions: Any, references: Any) -> None:
        """Counts one image.

        Args:
            predictions, references: Tensors, arrays or nested lists (H, W) of integers in 0..C-1; references also
                `ignore_index`.

        Raises:
            ValueError: The two are not integers of one shape (H, W). Labels out of range are [`ConfusionMatrix`]'s to
                report, so count with it first.
        """
        prediction = as_integers(predictions, "predictions", self.device)
        reference = as_integers(references, "references", self.device)
        if prediction.shape != reference.shape or reference.ndim != 2:
            raise ValueError(
                f"predictions have shape {tuple(prediction.shape)} and references {tuple(reference.shape)}; boundaries "
                "need one image (H, W) each, of one size."
            )
        if reference.numel() == 0:
            return
        void = reference == self.ignore_index
        distance = boundary_distance(reference.shape, self.dilation_ratio)
        # Bytes are many times faster than wider integers; 255 stays free for what must not count as a minimum.
        dtype = torch.uint8 if self.num_labels <= 255 else torch.int32
        reference, prediction = reference.to(dtype), prediction.to(dtype)
        in_reference = near_other_class(reference, void, distance)
        in_prediction = near_other_class(prediction, void, distance)
        in_both = in_reference & in_prediction & (reference == prediction)
        for row, labels in ((0, reference[in_both]), (1, reference[in_reference]), (2, prediction[in_prediction])):
            self.counts[row] += torch.bincount(labels.flatten(), minlength=self.num_labels)

    def scores(self) -> dict[str, Any]:
        """The scores of what was counted, see [`boundary_scores`]."""
        return boundary_scores(self.counts)


def boundary_scores(counts: Tensor) -> dict[str, Any]:
    """Gives, of `counts` (3, C) of [`BoundaryCounts`], `per_category_boundary_iou`, C floats, NaN for a class with
    neither reference nor prediction, and `mean_boundary_iou`, their mean over the classes that are not NaN."""
    intersection, reference, prediction = counts.cpu().double()
    iou = intersection / (reference + prediction - intersection)
    return {"mean_boundary_iou": mean_of_present(iou.numpy()), "per_category_boundary_iou": iou.tolist()}


def boundary_distance(shape: tuple[int, ...], dilation_ratio: float = DILATION_RATIO) -> int:
    """Width of the boundary in pixels for an image of `shape` (H, W): rounded, and at least 1."""
    return max(1, round(dilation_ratio * math.hypot(*shape)))


def near_other_class(labels: Tensor, void: Tensor, distance: int) -> Tensor:
    """Which pixels, bool (H, W), have another class, or the outside of the image, within a Chebyshev distance.

    A window holds one class alone where its minimum is its maximum. So all classes are done at once, in
    O(log distance) passes over the image. Labels are uint8 or int32, (H, W), non-negative; the type's largest value
    only where void. Void pixels, bool (H, W), are nobody's neighbor and never in the result.
    """
    largest = torch.iinfo(labels.dtype).max
    low, high = labels.masked_fill(void, largest), labels.masked_fill(void, 0)
    result = _in_windows(low, distance, largest, torch.minimum) != _in_windows(high, distance, 0, torch.maximum)
    for side in (0, 1):
        length = min(distance, labels.shape[side])
        result.narrow(side, 0, length).fill_(True)
        result.narrow(side, labels.shape[side] - length, length).fill_(True)
    return result & ~void


def _in_windows(values: Tensor, distance: int, neutral: int, extreme: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The extreme of every window of 2 * distance + 1 pixels a side, by combining windows of half the length."""
    window = 2 * distance + 1
    values = F.pad(values, (distance,) * 4, value=neutral)
    for side in (0, 1):
        length = 1
        while length < window:
            shift = min(length, window - length)
            rest = values.shape[side] - shift
            values = extreme(values.narrow(side, 0, rest), values.narrow(side, shift, rest))
            length += shift
    return values
