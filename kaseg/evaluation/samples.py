"""Samples of a dataset, prepared for a network one by one, here or in worker processes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice, starmap
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from kaseg.data.bad_samples import BadSamples, SkippedSample
from kaseg.data.own_samples import is_prepared, standard_sample
from kaseg.evaluation.confusion_matrix import as_integers
from kaseg.evaluation.processes import Processes
from kaseg.evaluation.protocols import InferenceProtocol, predict_masks
from kaseg.image_processing_kaseg import pixel_values_of
from kaseg.pixels import check_same_size, upright

T = TypeVar("T")


@dataclass
class PreparedSample:
    """One sample."""

    index: int  # its place in the dataset
    name: str  # its `id`, or else its place
    pixel_values: Tensor  # the image as the network takes it, (1, C, h, w)
    labels: Tensor | None  # integer train ids (H, W), if it has any
    size: tuple[int, int]  # (height, width) of the upright image and of its labels


def prepared_batches(
    dataset: Iterable[dict[str, Any]],
    image_processor: Any,
    batch_size: int = 1,
    num_workers: int = 0,
    processes: Processes | None = None,
    with_labels: bool = True,
    bad: BadSamples | None = None,
) -> Iterator[list[PreparedSample]]:
    """Runs of at most `batch_size` neighboring samples whose prepared images have one size. Images are never padded.

    Args:
        dataset: Samples with `image` and `label` (`None` or left out where there is none), and perhaps `id`.
        image_processor: Makes `pixel_values` of an image.
        num_workers: Processes that read and prepare samples ahead of their use, for datasets with a length. Default: 0,
            which prepares each sample when its turn comes.
        processes: Only the samples of this process are taken, if there are others.
        with_labels: `False` leaves labels alone where there are some.
        bad: Takes samples that cannot be prepared, such as strips of which the processor's resizing leaves nothing, if
            it skips them. Default: an error at the first.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    batch: list[PreparedSample] = []
    prepare: Any = partial(_prepare, image_processor, with_labels)
    if bad is not None and bad.skip:
        prepare = partial(_prepare_or_skip, prepare)
    for sample in _prepared_samples(dataset, prepare, num_workers, processes or Processes()):
        if isinstance(sample, SkippedSample):
            assert bad is not None
            bad.reject([sample])
            continue
        if batch and (len(batch) == batch_size or batch[0].pixel_values.shape != sample.pixel_values.shape):
            yield batch
            batch = []
        batch.append(sample)
        del sample  # or the last one would stay alive while the next is made
    if batch:
        yield batch


def predicted_samples(
    model: Any,
    batches: Iterable[list[PreparedSample]],
    protocol: InferenceProtocol,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[PreparedSample, Tensor]]:
    """Yields the samples of [`prepared_batches`] with their masks, int64 (height, width) on the model's device.

    The model is in eval mode meanwhile. `progress` is called with the size of every batch that is done.
    """
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            pixel_values = torch.cat([sample.pixel_values for sample in batch])
            check_channels(model.config, pixel_values, f"Sample {batch[0].name}")
            masks = predict_masks(model, pixel_values, [sample.size for sample in batch], protocol)
            for sample in batch:
                try:
                    mask = next(masks)
                except ValueError as error:
                    raise ValueError(f"Sample {sample.name}: {error}") from error
                yield sample, mask
            if progress is not None:
                progress(len(batch))
    finally:
        model.train(was_training)


def check_channels(config: Any, pixel_values: Tensor, where: str) -> None:
    """Raises a ValueError if images (B, C, H, W) have other channels than a model takes, as far as its config says."""
    expected = getattr(config, "num_channels", pixel_values.shape[1])
    if pixel_values.shape[1] != expected:
        raise ValueError(
            f"{where}: the model takes images of {expected} channels, these have {pixel_values.shape[1]}. Image files "
            "are read as RGB; images of other bands are given to the trainers as samples with normalized pixel_values "
            "(channels, H, W) and labels."
        )


def _name(index: int, sample: Any) -> str:
    return str(sample["id"] if isinstance(sample, Mapping) and "id" in sample else index)


def _prepare(image_processor: Any, with_labels: bool, index: int, sample: dict[str, Any]) -> PreparedSample:
    name = _name(index, sample)
    try:
        sample = standard_sample(sample, with_labels, may_lack_label=True)
        if is_prepared(sample):
            raise ValueError(
                "it has normalized pixel_values, which no image processor takes: give the dataset with its images "
                "(without set_transform or map), or call evaluate() of a SegmentationTrainer."
            )
        # Padding would be scored as part of the image, and what is cropped away would be missing.
        image = upright(sample["image"])
        labels, size = None, (image.height, image.width)
        if with_labels and sample.get("label") is not None:
            check_same_size(image.size, sample["label"].size)
            labels = as_integers(np.array(sample["label"]), "its labels", torch.device("cpu"))
        pixel_values = pixel_values_of(image_processor, image)
    except ValueError as error:
        raise ValueError(f"Sample {name} failed: {error}") from error
    return PreparedSample(index, name, pixel_values, labels, size)


def _prepare_or_skip(
    prepare: Callable[[int, Any], PreparedSample], index: int, sample: Any
) -> PreparedSample | SkippedSample:
    """In a worker, too, out of which an error would come as another one."""
    try:
        return prepare(index, sample)
    except ValueError as error:
        return SkippedSample(_name(index, sample), str(error))


def _prepare_at(dataset: Any, prepare: Callable[[int, Any], T], index: int) -> T:
    return prepare(index, dataset[index])


def _prepared_samples(
    dataset: Any, prepare: Callable[[int, Any], T], num_workers: int, processes: Processes
) -> Iterator[T]:
    if num_workers < 0:
        raise ValueError(f"num_workers must be at least 0, got {num_workers}.")
    if isinstance(dataset, Mapping):
        raise ValueError(
            f"One dataset is scored at a time, not a {type(dataset).__name__} of {', '.join(map(str, dataset))}: give "
            "one of them, such as data['validation']."
        )
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
        indices: Any = processes.share(len(dataset))
        prepare_at = partial(_prepare_at, dataset, prepare)
        if num_workers:
            # In a worker, a sample is what `collate_fn` makes of its index.
            loader = torch.utils.data.DataLoader
            return iter(loader(indices, batch_size=None, num_workers=num_workers, collate_fn=prepare_at))
        return map(prepare_at, indices)
    if num_workers:
        raise ValueError(f"num_workers={num_workers} needs a dataset with a length; a stream takes num_workers=0.")
    return starmap(prepare, islice(enumerate(dataset), processes.rank, None, processes.count))
