"""Puts samples together into a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import torch
from torch.nn.functional import pad

from kaseg.pixels import VOID


class SegmentationCollator:
    """Stacks samples, padding smaller ones at the bottom and at the right.

    `pixel_values` are padded with 0, which is the mean colour after normalisation; `labels` with `ignore_index`.

    Args:
        ignore_index: Label of padded pixels.
        pad_to_multiple_of: If given, heights and widths are padded up to a multiple of it.
    """

    def __init__(self, ignore_index: int = VOID, pad_to_multiple_of: int | None = None) -> None:
        self.ignore_index = ignore_index
        self.pad_to_multiple_of = pad_to_multiple_of

    def __call__(self, samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Makes a batch.

        Args:
            samples: Each with `pixel_values` (3, H, W) and `labels` (H, W), and maybe further tensors of one size.

        Returns:
            `pixel_values` (B, 3, H, W), `labels` (B, H, W) and the further tensors, stacked.

        Raises:
            ValueError: If padding is needed where pictures and labels differ in size: padding would shift them against
                each other.
        """
        pixel_values = [sample["pixel_values"] for sample in samples]
        labels = [sample["labels"] for sample in samples]
        height, width = self._batch_size(pixel_values)
        needs_padding = any(image.shape[-2:] != (height, width) for image in pixel_values)
        if needs_padding or any(label.shape != labels[0].shape for label in labels):
            for image, label in zip(pixel_values, labels, strict=True):
                if image.shape[-2:] != label.shape:
                    raise ValueError(
                        f"SegmentationCollator: pixel_values are {tuple(image.shape[-2:])} and labels "
                        f"{tuple(label.shape)}, so they cannot be padded alike. Use batches of one or no resizing."
                    )
            pixel_values = [self._pad(image, height, width, 0) for image in pixel_values]
            labels = [self._pad(label, height, width, self.ignore_index) for label in labels]
        others = samples[0].keys() - {"pixel_values", "labels"}
        return {
            "pixel_values": torch.stack(pixel_values),
            "labels": torch.stack(labels),
            **{name: torch.stack([sample[name] for sample in samples]) for name in sorted(others)},
        }

    def _batch_size(self, pixel_values: Sequence[torch.Tensor]) -> tuple[int, int]:
        multiple = self.pad_to_multiple_of or 1
        height, width = (max(image.shape[axis] for image in pixel_values) for axis in (-2, -1))
        return -(-height // multiple) * multiple, -(-width // multiple) * multiple

    @staticmethod
    def _pad(tensor: torch.Tensor, height: int, width: int, value: int) -> torch.Tensor:
        return pad(tensor, (0, width - tensor.shape[-1], 0, height - tensor.shape[-2]), value=value)


class EvalCollator:
    """Stacks samples of any sizes for evaluation, and keeps their sizes, by which [`unpadded_batches`] undoes it."""

    def __call__(self, samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Makes a batch.

        Args:
            samples: Each with `pixel_values` (3, h, w) and `labels` (H, W).

        Returns:
            `pixel_values` and `labels`, each padded to the largest height and width of its own, and `sizes`, int64 (B,
            4): height and width of every image and of its labels.
        """
        batch = {
            name: _stack_padded([sample[name] for sample in samples], value)
            for name, value in (("pixel_values", 0), ("labels", VOID))
        }
        sizes = [[*sample["pixel_values"].shape[-2:], *sample["labels"].shape] for sample in samples]
        return batch | {"sizes": torch.tensor(sizes)}


def unpadded_batches(
    batch: Mapping[str, torch.Tensor], count: int
) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
    """Splits a batch into runs of images of one size, without their padding.

    Args:
        batch: What [`EvalCollator`] made; a batch without `sizes` is one run.
        count: How many of its samples to take.

    Returns:
        An iterator over `pixel_values` (b, C, h, w) and the labels (H, W) of each image.
    """
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


def _stack_padded(tensors: Sequence[torch.Tensor], value: int) -> torch.Tensor:
    height, width = (max(tensor.shape[axis] for tensor in tensors) for axis in (-2, -1))
    return torch.stack([SegmentationCollator._pad(tensor, height, width, value) for tensor in tensors])
