"""Puts samples together into a batch."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import torch
from torch.nn.functional import pad

from kaseg.pixels import VOID


class SegmentationCollator:
    """Stacks samples, padding smaller ones at the bottom and at the right.

    `pixel_values` are padded with 0, which is the mean color after normalization; `labels` with void.
    """

    def __call__(self, samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Makes a batch of samples with `pixel_values` (3, H, W), `labels` (H, W) and maybe further tensors of one
        size: `pixel_values` (B, 3, H, W), `labels` (B, H, W) and the further tensors, stacked.

        Raises:
            ValueError: Padding is needed where images and labels differ in size: it would shift them against each
                other.
        """
        odd = next((s for s in samples if s["pixel_values"].shape[-2:] != s["labels"].shape), None)
        batch = _padded_batch(samples)
        if odd is not None and any(batch[name].shape[1:] != sample[name].shape for name in batch for sample in samples):
            raise ValueError(
                f"SegmentationCollator: pixel_values are {tuple(odd['pixel_values'].shape[-2:])} and labels "
                f"{tuple(odd['labels'].shape)}, so they cannot be padded alike. Use batches of one or no resizing."
            )
        others = samples[0].keys() - batch.keys()
        return batch | {name: torch.stack([sample[name] for sample in samples]) for name in sorted(others)}


class EvalCollator:
    """Stacks samples of any sizes for evaluation, and keeps their sizes, by which [`unpadded_batches`] undoes it.

    Of `pixel_values` (3, h, w) and `labels` (H, W), each padded to the largest height and width of its own, it makes a
    batch, with `sizes`, int64 (B, 4): height and width of every image and of its labels.
    """

    def __call__(self, samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        sizes = [[*sample["pixel_values"].shape[-2:], *sample["labels"].shape] for sample in samples]
        return _padded_batch(samples) | {"sizes": torch.tensor(sizes)}


def unpadded_batches(
    batch: Mapping[str, torch.Tensor], count: int
) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
    """Splits the first `count` samples of a batch of [`EvalCollator`] into runs of images of one size, without their
    padding: `pixel_values` (b, C, h, w) and the labels (H, W) of each image. A batch without `sizes` is one run."""
    pixel_values, labels = batch["pixel_values"][:count], batch["labels"][:count]
    if "sizes" not in batch:
        if len(labels):
            yield pixel_values, list(labels)
        return
    places = enumerate(batch["sizes"][:count].tolist())
    for (height, width), group in groupby(places, key=lambda place: tuple(place[1][:2])):
        run = list(group)
        images = torch.stack([pixel_values[index, :, :height, :width] for index, _ in run])
        yield images, [labels[index, : size[2], : size[3]] for index, size in run]


def _padded_batch(samples: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stacks `pixel_values`, padded with 0, and `labels`, padded with void, each to its largest height and width."""
    batch = {}
    for name, value in (("pixel_values", 0), ("labels", VOID)):
        tensors = [sample[name] for sample in samples]
        height, width = (max(t.shape[axis] for t in tensors) for axis in (-2, -1))
        padded = [pad(t, (0, width - t.shape[-1], 0, height - t.shape[-2]), value=value) for t in tensors]
        batch[name] = torch.stack(padded)
    return batch
