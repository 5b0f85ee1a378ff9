"""DIST: the student's class probabilities must correlate with the teacher's, instead of being equal to them."""

import torch
from torch import Tensor

from kaseg.distillation.losses.base import MapLoss


class DistLoss(MapLoss):
    r"""One minus Pearson's correlation of class probabilities (DIST, Huang et al., NeurIPS 2022).

    With `P`, `Q` the softmax of the student's and the teacher's logits as matrices of `N` positions (of the whole
    batch) by `C` classes, and `rho` Pearson's correlation,

        L_inter = 1 - 1/N sum_n rho(P_n:, Q_n:)             over the classes at each position
        L_intra = 1 - 1/C sum_k rho(P_:k, Q_:k)             over the positions for each class
        L_dist  = beta * L_inter + gamma * L_intra

    All of this is the paper's, and beta = gamma = 1 is its code's setting for segmentation. `rho` is computed as
    `x.y / (|x||y| + 1e-8)` of centered vectors, as there: what does not vary at all correlates with nothing.

    `L_intra` runs over the positions that are seen at once: with micro-batches or several processes it is the mean of
    their own values and not that of the whole batch, as for statistics of BatchNorm.

    Invariances: shifting and scaling (by a positive number) the probabilities of a position changes nothing in
    `L_inter`, and of a class nothing in `L_intra`; adding a number to all logits of a position changes nothing at all.

    Args:
        beta (`float`, defaults to 1.0): weight of `L_inter`.
        gamma (`float`, defaults to 1.0): weight of `L_intra`.

    Shapes: logits of student and teacher `(B, C, h, w)`, mask `(B, h, w)` of bool, result `()`.

    Example:
        >>> import torch
        >>> from kaseg.distillation.losses import DistLoss
        >>> student, teacher = torch.randn(2, 2, 5, 9, 9)
        >>> loss = DistLoss()
        >>> bool(loss(student, teacher) > 0), abs(float(loss(teacher + 3.0, teacher))) < 1e-5
        (True, True)
    """

    def __init__(self, beta: float = 1.0, gamma: float = 1.0) -> None:
        super().__init__()
        if beta < 0 or gamma < 0:
            raise ValueError(f"beta and gamma must not be negative, got beta={beta} and gamma={gamma}")
        self.beta, self.gamma = beta, gamma

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        first, second = (logits.softmax(1).permute(0, 2, 3, 1).flatten(0, 2) for logits in (student, teacher))
        counts = first.new_ones(len(first)) if mask is None else mask.flatten().to(first)
        number = counts.sum().clamp(min=1)
        inter = (counts * (1 - _correlation(first, second, torch.ones_like(first), 1))).sum() / number
        weights = counts.unsqueeze(1).expand_as(first)
        intra = (1 - _correlation(first, second, weights, 0)).mean() * (counts.sum() > 0)
        return self.beta * inter + self.gamma * intra


def _correlation(first: Tensor, second: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Pearson's correlation along `dim` of what has weight 1 and not 0."""
    number = weights.sum(dim, keepdim=True).clamp(min=1)
    first, second = (weights * (p - (weights * p).sum(dim, keepdim=True) / number) for p in (first, second))
    lengths = torch.linalg.vector_norm(first, dim=dim) * torch.linalg.vector_norm(second, dim=dim)
    return (first * second).sum(dim) / (lengths + 1e-8)
