"""Pixel-wise cross-entropy that ignores void."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from kaseg.masks import resize_logits


class CrossEntropyLoss(nn.Module):
    """`L_ce = sum_i w[y_i] * -log softmax(z_i)[y_i] / sum_i w[y_i]` over the pixels i that are not void.

    Args:
        class_weights (`Sequence[float]`, *optional*): One weight per class; 1 by default.
        ignore_index (`int`, defaults to 255): Void.

    Shapes: logits (B, C, h, w), resized bilinearly to the labels (B, H, W) int64; the result is a scalar.

    Example:

    ```python
    >>> import torch
    >>> from kaseg.losses import CrossEntropyLoss

    >>> CrossEntropyLoss()(torch.zeros(1, 2, 4, 4), torch.zeros(1, 8, 8, dtype=torch.long))
    tensor(0.6931)
    ```
    """

    def __init__(self, class_weights: Sequence[float] | None = None, ignore_index: int = 255) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        weight = None if class_weights is None else torch.tensor(list(class_weights), dtype=torch.float32)
        self.register_buffer("weight", weight, persistent=False)
        self.weight: torch.Tensor | None

    def normalizer(self, labels: torch.Tensor) -> torch.Tensor:
        """Denominator that these labels contribute: the number (or summed weight) of labelled pixels, a scalar."""
        if self.weight is None:
            return labels.ne(self.ignore_index).sum()
        weight = torch.cat([self.weight, self.weight.new_zeros(256 - len(self.weight))]).to(labels.device)
        return weight[labels.clamp(0, 255)].sum()

    def forward(
        self, logits: torch.Tensor, labels: torch.Tensor, normalizer: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss; `normalizer` replaces these labels' own denominator (several micro-batches or processes)."""
        if normalizer is None:
            normalizer = self.normalizer(labels)
        logits = resize_logits(logits, labels.shape[-2:])
        weight = None if self.weight is None else self.weight.to(logits.device)
        total = F.cross_entropy(logits, labels, weight=weight, ignore_index=self.ignore_index, reduction="sum")
        # A batch without a labelled pixel gives 0, not nan.
        return total / torch.where(normalizer > 0, normalizer, torch.ones_like(normalizer))
