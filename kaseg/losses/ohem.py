"""Online hard example mining for pixel-wise cross-entropy."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from kaseg.masks import resize_logits


class OhemCrossEntropyLoss(nn.Module):
    """Mean cross-entropy over the hard pixels of a batch (Shrivastava et al., CVPR 2016, on pixels).

    Hard are the labelled pixels whose true class has a probability below `threshold`; if these are fewer than
    `min_kept` of the labelled pixels, the hardest `min_kept` of them count.

    Args:
        threshold (`float`, defaults to 0.7): Probability under which a pixel is hard.
        min_kept (`float`, defaults to 0.0625): Least fraction of labelled pixels that count (1/16, our choice).
        class_weights (`Sequence[float]`, *optional*): One weight per class, applied to each pixel's loss.
        ignore_index (`int`, defaults to 255): Void.

    Shapes: logits (B, C, h, w), resized bilinearly to the labels (B, H, W) int64; the result is a scalar.
    """

    def __init__(
        self,
        threshold: float = 0.7,
        min_kept: float = 0.0625,
        class_weights: Sequence[float] | None = None,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        if not 0 < threshold <= 1 or not 0 < min_kept <= 1:
            raise ValueError(f"threshold and min_kept must lie in (0, 1], got {threshold} and {min_kept}.")
        self.threshold = threshold
        self.min_kept = min_kept
        self.ignore_index = ignore_index
        weight = None if class_weights is None else torch.tensor(list(class_weights), dtype=torch.float32)
        self.register_buffer("weight", weight, persistent=False)
        self.weight: torch.Tensor | None

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss over this batch's hard pixels."""
        logits = resize_logits(logits, labels.shape[-2:])
        losses = F.cross_entropy(logits, labels, ignore_index=self.ignore_index, reduction="none")
        valid = labels.ne(self.ignore_index)
        losses, labels = losses[valid], labels[valid]
        if losses.numel() == 0:
            return logits.sum() * 0.0
        # -log p < -log threshold are the easy ones; the threshold gives way when too few are hard.
        kept = max(1, int(self.min_kept * losses.numel()))
        hardest = torch.topk(losses.detach(), kept).values[-1]
        limit = torch.minimum(hardest, losses.new_tensor(self.threshold).log().neg())
        hard = losses.detach() >= limit
        if self.weight is not None:
            losses = losses * self.weight.to(losses.device)[labels]
        return losses[hard].mean()
