"""Which classes occur in the masks of a dataset, so that training and scoring can warn about those that do not."""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch

from kaseg.data.dataset import SegmentationDataset, StreamingSegmentationDataset, WithUnlabelled
from kaseg.data.samples import mask_of, mask_reader
from kaseg.pixels import VOID

logger = logging.getLogger(__name__)

_WRAPPERS = (SegmentationDataset, StreamingSegmentationDataset, WithUnlabelled)
# A class that is in none of this many masks, spread evenly, is as good as absent (our choice).
_ENOUGH = 1000
_ENOUGH_OF_A_STREAM = 100


@dataclass(frozen=True)
class SeenClasses:
    """What [`look_at_masks`] saw."""

    classes: frozenset[int]  # train ids that occur
    void: bool  # whether it occurs
    masks: int  # how many were looked at
    all_masks: bool  # whether the dataset has no others


def look_at_masks(dataset: Any, num_labels: int, enough: int | None = None) -> SeenClasses:
    """Finds which classes occur, in no more masks than it takes.

    Masks are looked at in a fixed random order until `enough` classes (by default all) were seen: at most 1,000 masks
    if two classes were seen in them, and all masks otherwise. Of a stream it is the first 100 masks at most. Images are
    not decoded. `dataset` may be one of kaseg's wrappers, or any whose samples have `label` or `labels`.
    """
    enough = num_labels if enough is None else enough
    # Of a wrapper, the samples before any augmentation.
    inner = dataset.dataset if isinstance(dataset, _WRAPPERS) else dataset
    is_stream = isinstance(inner, torch.utils.data.IterableDataset | datasets.IterableDataset)
    if is_stream:
        found = (mask_of(sample) for sample in itertools.islice(inner, _ENOUGH_OF_A_STREAM))
    else:
        read = mask_reader(inner)
        found = (read(index) for index in np.random.default_rng(0).permutation(len(inner)).tolist())
    seen: set[int] = set()
    classes: set[int] = set()
    looked_at = masks = 0
    for mask in found:
        looked_at += 1
        if mask is None:
            continue
        masks += 1
        seen.update(np.unique(np.asarray(mask)).tolist())
        classes = {label for label in seen if 0 <= label < num_labels}
        if len(classes) >= enough or (not is_stream and masks >= _ENOUGH and len(classes) > 1):
            break
    return SeenClasses(frozenset(classes), VOID in seen, masks, not is_stream and looked_at == len(inner))


def check_training_masks(dataset: Any, names: Sequence[str]) -> None:
    """Raises a ValueError for training masks of fewer than two classes, and warns about classes that occur in none."""
    if dataset is None:
        return
    seen = look_at_masks(dataset, len(names))
    absent = ", ".join(repr(name) for index, name in enumerate(names) if index not in seen.classes)
    if not absent or not seen.masks:
        return
    where = f"all {seen.masks} training masks" if seen.all_masks else f"the {seen.masks} training masks looked at"
    if len(seen.classes) > 1:
        message = f"These classes occur in none of {where}, so they cannot be learned: {absent}.{_hint(seen)}"
    else:
        only = f"the class {names[min(seen.classes)]!r} alone" if seen.classes else "no class at all"
        message = f"There is nothing to learn: {where} hold {only}. What never occurs: {absent}.{_hint(seen)}"
        if seen.all_masks:  # the next sample of a stream may hold another class
            raise ValueError(message)
    logger.warning(message)


def _hint(seen: SeenClasses) -> str:
    if not seen.void:
        return ""
    if len(seen.classes) > 1:
        return " (255 is void.)"
    return (
        " 255 is void and never a class. Did you mean masks of 0 and 255? Then write "
        '{"0": "background", "255": "object"} with your names into classes.json beside the data, or into a file '
        "that label_space names (in Python: LabelSpace(..., label_map={0: 0, 255: 1}))."
    )


def require_labelled_pixels(dataset: Any, num_labels: int, where: str) -> None:
    """Raises a ValueError if data to be scored have no samples or no masks, or not a single labelled pixel in them."""
    seen = look_at_masks(dataset, num_labels, enough=1)
    # Samples that are not ours to read may hold their masks under any name.
    if seen.all_masks and not seen.masks and isinstance(dataset, _WRAPPERS):
        raise ValueError(
            f"{where}: there is no sample that has a mask, so there is nothing to score. Take a split with masks, or "
            "leave the evaluation out."
        )
    if seen.all_masks and seen.masks and not seen.classes:
        raise ValueError(
            f"{where}: not one of the {seen.masks} masks has a labelled pixel (all are void, {VOID}), so there is "
            f"nothing to score.{_hint(seen)}"
        )
