"""How often classes occur, and class weights that make up for it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kaseg.pixels import VOID


@dataclass(frozen=True)
class ClassCounts:
    """What [`count_classes`] counted.

    Attributes:
        pixels: Labelled pixels of every class, (C,) int64.
        context: Labelled pixels of all images that hold the class, (C,) int64.
    """

    pixels: np.ndarray
    context: np.ndarray


def count_classes(dataset: Iterable[Mapping[str, Any]], num_labels: int) -> ClassCounts:
    """Count the labelled pixels of every class.

    Args:
        dataset: Samples with a `label` (H, W) of train ids, as [`load_segmentation_dataset`] gives them.
        num_labels: Classes C.

    Raises:
        ValueError: a label that is neither below `num_labels` nor void, or no label mask; the message names the sample.
    """
    pixels, context = np.zeros(num_labels, np.int64), np.zeros(num_labels, np.int64)
    for index, sample in enumerate(dataset):
        if sample["label"] is None:
            raise ValueError(f"Sample {sample.get('id', index)} has no label mask (a test split?).")
        label = np.asarray(sample["label"])
        counts = np.bincount(label[label != VOID], minlength=num_labels)
        if counts[num_labels:].any():
            raise ValueError(
                f"Sample {sample.get('id', index)}: label {num_labels + int(np.flatnonzero(counts[num_labels:])[0])} "
                f"is neither one of the {num_labels} classes nor void ({VOID})."
            )
        counts = counts[:num_labels]
        pixels += counts
        context += np.where(counts > 0, counts.sum(), 0)
    return ClassCounts(pixels, context)


def median_frequency_weights(counts: ClassCounts, power: float = 1.0) -> list[float]:
    """`w_c = (median(f) / f_c) ** power`, `f_c` the share of class c in the pixels of the images that hold it.

    Median frequency balancing of Eigen & Fergus 2015 (arXiv 1411.4734), also SegNet's for CamVid, where `power` is 1.
    0.5, our choice, favors rare classes less and so costs frequent ones less. A class that never occurs weighs 1.

    Raises:
        ValueError: no class occurs at all.
    """
    found = counts.pixels > 0
    if not found.any():
        raise ValueError("No labelled pixel was counted, so there are no frequencies to weigh by.")
    frequency = counts.pixels[found] / counts.context[found]
    weights = np.ones(len(counts.pixels))
    weights[found] = (np.median(frequency) / frequency) ** power
    return weights.tolist()
