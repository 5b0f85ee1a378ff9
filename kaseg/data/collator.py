"""Puts samples together into a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import pad


class SegmentationCollator:
    """Stacks samples, padding smaller ones at the bottom and at the right.

    `pixel_values` are padded with 0, which is the mean colour after normalisation; `labels` with `ignore_index`.

    Args:
        ignore_index: Label of padded pixels.
        pad_to_multiple_of: If given, heights and widths are padded up to a multiple of it.
    """

    def __init__(self, ignore_index: int = 255, pad_to_multiple_of: int | None = None) -> None:
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
