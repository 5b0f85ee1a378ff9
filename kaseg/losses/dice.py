"""Soft Dice loss over classes."""

import torch
from torch import nn

from kaseg.masks import resize_logits


class DiceLoss(nn.Module):
    """`1 - mean_c (2 sum_i p_ic y_ic + s) / (sum_i p_ic + sum_i y_ic + s)` over the classes c present in the labels.

    p is the softmax, y the one-hot label, i runs over the pixels of the batch that are not void (Milletari et al.,
    3DV 2016, with unsquared sums; classes without a label pixel are left out, our choice).

    Args:
        smooth (`float`, defaults to 1.0): s above.
        ignore_index (`int`, defaults to 255): Void.

    Shapes: logits (B, C, h, w), resized bilinearly to the labels (B, H, W) int64; the result is a scalar.
    """

    def __init__(self, smooth: float = 1.0, ignore_index: int = 255) -> None:
        super().__init__()
        self.smooth = smooth
        self.ignore_index = ignore_index

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss over this batch; 0 where nothing is labelled."""
        logits = resize_logits(logits, labels.shape[-2:])
        valid = labels.ne(self.ignore_index)
        probabilities = logits.softmax(dim=1) * valid[:, None]
        label_sum = torch.bincount(labels[valid], minlength=logits.shape[1]).to(logits)
        of_label = probabilities.gather(1, torch.where(valid, labels, 0)[:, None])[:, 0]
        overlap = torch.zeros_like(label_sum).scatter_add(0, labels[valid], of_label[valid])
        total = probabilities.sum(dim=(0, 2, 3)) + label_sum
        present = label_sum > 0
        if not present.any():
            return logits.sum() * 0.0
        return 1.0 - ((2.0 * overlap + self.smooth) / (total + self.smooth))[present].mean()
