"""The dataset-level mean IoU as an `evaluate.Metric` that keeps counts, not images."""

import logging
import os
from typing import Any

import datasets
import evaluate

from kaseg.evaluation.caution import caution
from kaseg.evaluation.confusion_matrix import ConfusionMatrix, iou_scores, restrict_counts

logger = logging.getLogger(__name__)

_DESCRIPTION = """
Mean intersection over union of a whole dataset: intersections and unions are summed over all images first, and the
mean is taken over the classes that occur. Void pixels count nowhere.
"""
_INPUTS = """
Args:
    predictions: label maps, integers in 0..num_labels-1; sizes may differ from image to image.
    references: label maps of the same sizes, integers in 0..num_labels-1 or `ignore_index` (void).
"""
_CITATION = """
@article{everingham2010pascal,
  title={The Pascal Visual Object Classes (VOC) Challenge},
  author={Everingham, Mark and Van Gool, Luc and Williams, Christopher K. I. and Winn, John and Zisserman, Andrew},
  journal={International Journal of Computer Vision}, volume={88}, pages={303--338}, year={2010}
}
"""


class MeanIoU(evaluate.Metric):
    """Mean IoU with the interface and the result names of `evaluate`'s `mean_iou`, in constant memory.

    Images are counted into a [`ConfusionMatrix`] as they come and then forgotten: no cache files, no network. The
    scores are those of [`iou_scores`]. Unlike `evaluate`'s metric, a label outside the classes is an error, and
    `ignore_index` is void only: it may not be one of the classes.

    Args:
        num_labels: Number of classes C. It may be left to `compute` as long as all labels are below 256; given here, a
            bad label is reported with the image it is in.
        ignore_index: Reference value of void pixels.
        **kwargs: Passed to `evaluate.Metric` (`config_name`, `experiment_id`, ...).

    Raises:
        ValueError: `num_process` is not 1 (let every process count its own share and sum the matrices), or
            `ignore_index` is one of the classes.

    Example:

    ```python
    >>> import numpy as np
    >>> from kaseg.evaluation import MeanIoU
    >>> metric = MeanIoU(num_labels=2)
    >>> metric.add_batch(predictions=[np.array([[0, 1]])], references=[np.array([[0, 1]])])
    >>> metric.add(prediction=np.array([[0, 1, 1]]), reference=np.array([[0, 0, 255]]))
    >>> metric.compute()["mean_iou"]
    0.5833333333333333

    ```
    """

    def __init__(self, num_labels: int | None = None, ignore_index: int = 255, **kwargs: Any) -> None:
        if kwargs.get("num_process", 1) != 1:
            raise ValueError(
                f"MeanIoU counts in one process, got num_process={kwargs['num_process']}. In a distributed run give "
                "every process its own ConfusionMatrix, sum their matrices and call iou_scores on the sum."
            )
        super().__init__(**kwargs)
        self.info.module_name = "mean_iou"  # evaluate would derive "mean_io_u" from the class name
        self.num_labels = num_labels
        self.ignore_index = ignore_index
        self._counts = self._new_counts()
        self._seen = 0

    def __len__(self) -> int:
        """Number of images counted since the last `compute`."""
        return self._seen

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Counts one image: integer label maps (H, W) as tensors, arrays or nested lists.

        `evaluate.combine` passes them as `predictions` and `references`. Errors are those of `add_batch`.
        """
        prediction = kwargs.pop("predictions", prediction)
        reference = kwargs.pop("references", reference)
        _check_inputs("add", {"prediction": prediction, "reference": reference}, kwargs)
        self.add_batch(predictions=[prediction], references=[reference])

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Counts a batch of images.

        Args:
            predictions, references: Sequences of B integer label maps (H, W), or one tensor or array (B, H, W) each.
                Sizes may differ between images, not within a pair.

        Raises:
            ValueError: One of the two is missing, their lengths or sizes differ or a label is out of range. Nothing of
                the batch is then counted.
        """
        _check_inputs("add_batch", {"predictions": predictions, "references": references}, kwargs)
        counts = self._new_counts()
        self._seen += _count_batch(counts, predictions, references, first=self._seen)
        self._counts.merge(counts)

    def compute(
        self,
        *,
        predictions: Any = None,
        references: Any = None,
        num_labels: int | None = None,
        ignore_index: int | None = None,
        reduce_labels: bool = False,
    ) -> dict[str, Any]:
        """Scores everything counted since the last call, which is then forgotten.

        Args:
            predictions, references: A last batch to count first, as in `add_batch`.
            num_labels: Number of classes, if not given to the constructor.
            ignore_index: Reference value of void pixels; the constructor's by default.
            reduce_labels: Only `False` is accepted; it is here because examples written for `evaluate` pass it.

        Returns:
            The scores of [`iou_scores`]. If the labels or the predictions are of one class alone, a warning says so.

        Raises:
            ValueError: Nothing was counted, the number of classes is unknown or contradicts the constructor's, or a
                label is out of range. What was counted before is then kept.
        """
        options: Any = {"num_labels": num_labels, "ignore_index": ignore_index, "reduce_labels": reduce_labels}
        given = predictions is not None or references is not None
        if given and not self._seen:
            return self._compute(predictions=predictions, references=references, **options)
        classes, void = self._resolve(**options)
        if given:
            self.add_batch(predictions=predictions, references=references)
        if not self._seen:
            raise ValueError(
                "Nothing to score: call add or add_batch before compute, or pass predictions= and references= to it."
            )
        matrix = self._counts.matrix
        if self.num_labels is None:
            matrix = restrict_counts(matrix, classes, void)
        self._counts, self._seen = self._new_counts(), 0
        return _with_caution(iou_scores(matrix))

    def _info(self) -> evaluate.MetricInfo:
        label_map = datasets.Sequence(datasets.Sequence(datasets.Value("int64")))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": label_map, "references": label_map}),
        )

    def _build_data_dir(self) -> str:
        # evaluate creates this directory for its cache files. There are none here, so that read-only homes work, too.
        return os.path.join(self._data_dir_root, self.name, self.config_name)

    def _compute(self, *, predictions: Any = None, references: Any = None, **options: Any) -> dict[str, Any]:
        """The scores of one batch alone, independent of what was counted; transformers' examples call it directly."""
        _check_inputs("compute", {"predictions": predictions, "references": references}, {})
        counts = ConfusionMatrix(*self._resolve(**options))
        _count_batch(counts, predictions, references)
        return _with_caution(iou_scores(counts.matrix))

    def _new_counts(self) -> ConfusionMatrix:
        """An empty matrix; without a number of classes, of all pairs of bytes, to be cut down in `compute`."""
        if self.num_labels is None:
            return ConfusionMatrix(num_labels=256, ignore_index=-1)
        return ConfusionMatrix(self.num_labels, self.ignore_index)

    def _resolve(
        self, num_labels: int | None = None, ignore_index: int | None = None, reduce_labels: bool = False
    ) -> tuple[int, int]:
        """The number of classes and the void value to score with, from the call's options and the constructor's."""
        if reduce_labels:
            raise ValueError(
                "reduce_labels=True is not supported, because labels reduced twice score near zero unnoticed: map raw "
                "labels to train ids once, in the dataset's label map."
            )
        void = self.ignore_index if ignore_index is None else ignore_index
        if self.num_labels is None and num_labels is None:
            raise ValueError("The number of classes is unknown: pass num_labels= to MeanIoU or to compute.")
        if self.num_labels is not None and (num_labels not in (None, self.num_labels) or void != self.ignore_index):
            raise ValueError(
                f"compute was asked for num_labels={num_labels}, ignore_index={ignore_index}, but this MeanIoU counts "
                f"with num_labels={self.num_labels}, ignore_index={self.ignore_index}. Give them in one place."
            )
        classes = num_labels if self.num_labels is None else self.num_labels
        assert classes is not None
        return classes, void


def _with_caution(scores: dict[str, Any]) -> dict[str, Any]:
    if words := caution(scores):
        logger.warning(f"mean_iou {scores['mean_iou']:.4f}: {words}")
    return scores


def _check_inputs(method: str, inputs: dict[str, Any], others: dict[str, Any]) -> None:
    missing = [name for name, value in inputs.items() if value is None]
    if missing or others:
        needed = " and ".join(f"{name}=" for name in inputs)
        unknown = sorted(others) or "none"
        raise ValueError(f"{method} takes {needed}; missing: {missing or 'none'}, unknown: {unknown}.")


def _count_batch(counts: ConfusionMatrix, predictions: Any, references: Any, first: int = 0) -> int:
    """Count every image of a batch, named by its place in the stream, and return how many they were."""
    if len(predictions) != len(references):
        raise ValueError(
            f"Got {len(predictions)} predictions but {len(references)} references: one of each per image is needed."
        )
    for place, (prediction, reference) in enumerate(zip(predictions, references, strict=True), start=first):
        counts.update(prediction, reference, sample=str(place))
    return len(predictions)
