"""Streaming confusion matrix and the dataset-level scores read off it."""

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

_BYTE = 256  # Label maps are 8-bit images almost everywhere.


class ConfusionMatrix:
    r"""Counts how often each reference label was predicted as each label, one image or batch at a time.

    `matrix[r, p]` is the number of pixels with reference `r` that were predicted as `p`. Nothing but these counts is
    kept, so memory does not grow with the number of images, and the scores of [`iou_scores`] are those of the whole
    dataset (the literature's mIoU), never averages over images. Pixels whose reference is `ignore_index` (void) are
    left out.

    Args:
        num_labels: Number of classes C, at least 2; labels are 0..C-1.
        ignore_index: Reference value of void pixels; not one of the classes.
        device: Where the counts live and are counted; inputs are moved there.

    Example:

    ```python
    >>> import numpy as np
    >>> from kaseg.evaluation import ConfusionMatrix, iou_scores
    >>> confusion = ConfusionMatrix(num_labels=3)
    >>> confusion.update(predictions=np.array([[0, 1], [1, 1]]), references=np.array([[0, 1], [0, 255]]))
    >>> confusion.matrix.tolist()
    [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    >>> iou_scores(confusion.matrix)["per_category_iou"]
    [0.5, 0.5, nan]

    ```
    """

    def __init__(self, num_labels: int, ignore_index: int = 255, device: str | torch.device = "cpu") -> None:
        _check_classes(num_labels, ignore_index)
        self.num_labels = num_labels
        self.ignore_index = ignore_index
        self.device = torch.device(device)
        self.reset()

    @property
    def matrix(self) -> Tensor:
        """A copy of the counts: int64, (C, C), rows = reference, columns = prediction."""
        return self._matrix.clone()

    def reset(self) -> None:
        """Set all counts to zero."""
        self._matrix = torch.zeros(self.num_labels, self.num_labels, dtype=torch.int64, device=self.device)

    def update(self, predictions: Any, references: Any, sample: str | None = None) -> None:
        """Counts one image or one batch.

        Args:
            predictions: Tensor, array or nested list of integers in 0..C-1, any shape.
            references: The same of integers in {0..C-1, `ignore_index`}.
            sample: Name of the image or batch, used in error messages.

        Raises:
            ValueError: The shapes differ, the values are not integers, or a label is out of range (a prediction is
                checked at void pixels, too). The counts are then unchanged.
        """
        where = f" of sample {sample!r}" if sample is not None else ""
        prediction = as_integers(predictions, "predictions" + where, self.device)
        reference = as_integers(references, "references" + where, self.device)
        if prediction.shape != reference.shape:
            raise ValueError(
                f"predictions{where} have shape {tuple(prediction.shape)} but references have shape "
                f"{tuple(reference.shape)}. Resize the predictions to the references' size first."
            )
        if prediction.numel() == 0:
            return
        counts = self._count_bytes(prediction, reference)
        self._matrix += self._count_wide(prediction, reference, where) if counts is None else counts

    def merge(self, other: Self) -> None:
        """Adds the counts of `other`; a ValueError if it has other labels or another `ignore_index`."""
        mine, theirs = (self.num_labels, self.ignore_index), (other.num_labels, other.ignore_index)
        if mine != theirs:
            raise ValueError(
                f"Cannot merge confusion matrices with different (num_labels, ignore_index): {mine} and {theirs}."
            )
        self._matrix += other._matrix.to(self.device)

    def _count_bytes(self, prediction: Tensor, reference: Tensor) -> Tensor | None:
        """Counts for labels of a byte; `None` where `_count_wide` has to count or to complain."""
        classes = self.num_labels
        void_rows = int(self.ignore_index == _BYTE - 1)
        if not void_rows and 0 <= self.ignore_index < _BYTE:
            return None
        if _largest(prediction) >= classes or _largest(reference) >= _BYTE:
            return None
        # One more than 255 is 0 in a byte: void becomes row 0, and whatever else is no class lies beyond the last row.
        rows = reference.to(torch.uint8) + 1 if void_rows else reference.to(torch.uint8)
        if int(rows.max()) >= classes + void_rows:
            return None
        # The narrower, the faster: most of the time is reading and writing, and bincount takes any width.
        kind = torch.int16 if (classes + void_rows) * classes <= torch.iinfo(torch.int16).max else torch.int32
        pairs = torch.add(prediction.to(kind), rows.to(kind), alpha=classes).flatten()
        return torch.bincount(pairs, minlength=(classes + void_rows) * classes).view(-1, classes)[void_rows:]

    def _count_wide(self, prediction: Tensor, reference: Tensor, where: str) -> Tensor:
        """Counts for everything else: more than 256 classes, an unusual `ignore_index`, or errors."""
        prediction, reference = prediction.flatten().long(), reference.flatten().long()
        classes = self.num_labels
        wrong_prediction = (prediction < 0) | (prediction >= classes)
        void = reference == self.ignore_index
        wrong_reference = ((reference < 0) | (reference >= classes)) & ~void
        _raise_for(prediction[wrong_prediction], "predictions", classes, self.ignore_index, where)
        _raise_for(reference[wrong_reference], "references", classes, self.ignore_index, where)
        pairs = (reference * classes + prediction)[~void]
        return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def iou_scores(matrix: Tensor | np.ndarray) -> dict[str, Any]:
    r"""Segmentation scores of a confusion matrix, under the names of `evaluate`'s `mean_iou`.

    With \(n_{rp}\) the counts, \(t_c = \sum_p n_{cp}\) the reference pixels and \(q_c = \sum_r n_{rc}\) the predicted
    pixels of class c:

    - `per_category_iou`: \(n_{cc} / (t_c + q_c - n_{cc})\), NaN for a class with neither reference nor prediction;
    - `mean_iou`: mean of `per_category_iou` over the classes that are not NaN;
    - `per_category_accuracy`: \(n_{cc} / t_c\), NaN for a class without reference;
    - `mean_accuracy`: mean of `per_category_accuracy` over the classes that are not NaN;
    - `overall_accuracy`: \(\sum_c n_{cc} / \sum_c t_c\);
    - `frequency_weighted_iou`: \(\sum_c t_c\, \mathrm{IoU}_c / \sum_c t_c\) over the classes with a reference;
    - `num_reference_classes`, `num_predicted_classes`: how many classes have a reference, and a prediction, at all.
      Where one of them is 1, the scores say little ([`~kaseg.evaluation.caution.caution`]).

    The frequency-weighted one follows Long et al. 2015 (Fully Convolutional Networks), section 5; all scores are
    fractions in 0..1.

    Args:
        matrix: Tensor or array of counts, (C, C), rows = reference, columns = prediction.

    Returns:
        Floats, lists of C floats for the two `per_category_*` keys, and the two numbers of classes. Scores are NaN if
        nothing was counted.

    Raises:
        ValueError: `matrix` is not square.
    """
    counts = torch.as_tensor(matrix).detach().to("cpu", torch.float64).numpy()
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"Expected a square confusion matrix (C, C), got shape {counts.shape}.")
    hits, references, predictions = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    iou = _ratio(hits, references + predictions - hits)
    accuracy = _ratio(hits, references)
    total = references.sum()
    seen = references > 0
    return {
        "mean_iou": mean_of_present(iou),
        "mean_accuracy": mean_of_present(accuracy),
        "overall_accuracy": float(_ratio(hits.sum(), total)),
        "frequency_weighted_iou": float(_ratio((references[seen] * iou[seen]).sum(), total)),
        "num_reference_classes": int(seen.sum()),
        "num_predicted_classes": int((predictions > 0).sum()),
        "per_category_iou": iou.tolist(),
        "per_category_accuracy": accuracy.tolist(),
    }


def restrict_counts(joint: Tensor, num_labels: int, ignore_index: int) -> Tensor:
    """Cuts counts (N, N) of raw value pairs, rows = reference, down to the classes (C, C), dropping void.

    Raises:
        ValueError: A counted prediction is outside 0..C-1, a counted reference outside {0..C-1, `ignore_index`}, or
            `ignore_index` is one of the classes.
    """
    _check_classes(num_labels, ignore_index)
    size = joint.shape[0]
    counts = joint[:num_labels, :num_labels]
    allowed = counts.sum()
    if num_labels <= ignore_index < size:
        allowed = allowed + joint[ignore_index, :num_labels].sum()
    if allowed != joint.sum():
        predicted = joint.sum(dim=0).nonzero().flatten()
        referred = joint.sum(dim=1).nonzero().flatten()
        _raise_for(predicted[predicted >= num_labels], "predictions", num_labels, ignore_index)
        wrong = (referred >= num_labels) & (referred != ignore_index)
        _raise_for(referred[wrong], "references", num_labels, ignore_index)
    missing = max(num_labels - size, 0)
    return torch.nn.functional.pad(counts, (0, missing, 0, missing)) if missing else counts


def _check_classes(num_labels: int, ignore_index: int) -> None:
    if num_labels < 2:
        raise ValueError(f"num_labels must be at least 2, got {num_labels}: of one class every score is 1.")
    if 0 <= ignore_index < num_labels:
        raise ValueError(
            f"ignore_index={ignore_index} is one of the {num_labels} classes 0..{num_labels - 1}, but it marks "
            "void pixels and is never a class: map void to 255 (or to -1 when there are more than 255 classes)."
        )


def as_integers(values: Any, name: str, device: torch.device) -> Tensor:
    """Labels as an integer tensor on `device`; a ValueError that calls them `name` if they are not integers."""
    if not isinstance(values, Tensor):
        array = np.asarray(values)
        if array.dtype.kind not in "biu":
            raise ValueError(_not_integer(name, array.dtype))
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = array.astype(np.int64)  # torch has few operations on wider unsigned integers
        # Copies what torch cannot wrap: flipped views and the read-only buffers of PIL images.
        values = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    if values.dtype.is_floating_point or values.dtype.is_complex:
        raise ValueError(_not_integer(name, values.dtype))
    if values.dtype == torch.bool:
        values = values.to(torch.uint8)
    return values.to(device)


def _not_integer(name: str, dtype: Any) -> str:
    return f"{name} must be integer labels, got {dtype}. If these are logits, take the argmax over the classes first."


def _largest(values: Tensor) -> int:
    """The largest value, where a negative one counts as larger than all others."""
    if values.device.type == "cpu":  # numpy: torch's aminmax is three times slower here
        array = values.to(torch.int16).numpy() if values.dtype == torch.int8 else values.numpy()
        return int(array.view(f"u{array.itemsize}").max())
    low, high = torch.aminmax(values)
    return int(high) if low >= 0 else torch.iinfo(torch.int64).max


def _raise_for(wrong: Tensor, name: str, num_labels: int, ignore_index: int, where: str = "") -> None:
    if wrong.numel() == 0:
        return
    found = torch.unique(wrong).tolist()
    shown = ", ".join(map(str, found[:10])) + (", ..." if len(found) > 10 else "")
    if name == "predictions":
        advice = f"Predictions must be in 0..{num_labels - 1}: check that num_labels is the model's number of classes."
    else:
        advice = (
            f"References must be in 0..{num_labels - 1} or {ignore_index} (void): map the raw labels to train ids in "
            "the dataset's label map, and everything else to void."
        )
    raise ValueError(f"{name}{where} hold {shown}, which is outside the {num_labels} classes. {advice}")


def _ratio(numerator: Any, denominator: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.true_divide(numerator, denominator)


def mean_of_present(scores: np.ndarray) -> float:
    """The mean of the entries that are not NaN; NaN if there are none."""
    present = scores[~np.isnan(scores)]
    return float(present.mean()) if present.size else float("nan")
