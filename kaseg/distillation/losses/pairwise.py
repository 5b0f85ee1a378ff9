"""Pairwise structured distillation: how alike regions are must agree between student and teacher."""

import torch
from torch import Tensor
from torch.nn import functional as F

from kaseg.distillation.losses.base import (
    MapLoss,
    check_mask,
    inverse_norms,
    require_positive,
    without_autocast,
    working_precision,
)


class PairwiseLoss(MapLoss):
    r"""Squared difference of region similarities (pair-wise part of SKD, Liu et al., CVPR 2019).

    Each map is max-pooled to a grid of `nodes x nodes`. With `f_i` the vector of channels of node `i` of an image with
    `n` nodes that count,

        a_ij = cos(f_i, f_j)
        L_pa = 1/B sum_b 1/n^2 sum_i sum_j (a^s_ij - a^t_ij)^2              n = nodes^2

    Cosines, squares and 1/n^2 are the paper's. Max-pooling to half the map, i.e. 2 x 2 nodes, is what its released code
    does; our pooling windows are those of adaptive pooling, so that maps of any size meet without being resized. That
    code also stops the gradient of the vectors' lengths; we differentiate the formula as it stands. The paper's weight
    is 10, its code's 0.5.

    Invariances: the scale of either map and an orthogonal change of the channels of a map pooled to itself (`nodes` as
    large as the map) change nothing; student and teacher may differ in channels and in size.

    Args:
        nodes (`int`, defaults to 2): nodes along each side of the grid; `n^2` similarities are formed.
        eps (`float`, defaults to 1e-4): length below which a vector counts as zero, in units of the features.

    Shapes: student `(B, c_s, h_s, w_s)`, teacher `(B, c_t, h_t, w_t)`, masks `(B, h, w)` of bool for each, result `()`.

    Example:
        >>> import torch
        >>> from kaseg.distillation.losses import PairwiseLoss
        >>> student, teacher = torch.randn(2, 8, 9, 9), torch.randn(2, 16, 33, 33)
        >>> loss = PairwiseLoss(nodes=4)
        >>> bool(loss(student, teacher) > 0), float(loss(student, 3 * student)) < 1e-6
        (True, True)
    """

    per_image = True

    def __init__(self, nodes: int = 2, eps: float = 1e-4) -> None:
        super().__init__()
        if nodes < 2:
            raise ValueError(f"nodes must be at least 2, got {nodes}")
        require_positive(eps=eps)
        self.nodes, self.eps = nodes, eps

    def forward(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, teacher_mask: Tensor | None = None
    ) -> Tensor:
        """As in [`~kaseg.distillation.losses.base.MapLoss`], with a mask for each map; that of the student serves both
        where it fits. A node exists where positions of both maps count, and an image without nodes contributes 0."""
        if student.ndim != 4 or teacher.ndim != 4 or len(student) != len(teacher):
            raise ValueError(
                "student and teacher must have shapes (B, c, h, w) with the same B, "
                f"got student {tuple(student.shape)} and teacher {tuple(teacher.shape)}"
            )
        teacher_mask = mask if teacher_mask is None else teacher_mask
        check_mask(student, mask)
        check_mask(teacher, teacher_mask)
        with without_autocast(student):
            similarities, exists = self._similarities(student, mask)
            teacher_similarities, teacher_exists = self._similarities(teacher, teacher_mask)
            exists = exists & teacher_exists
            both = exists.unsqueeze(1) & exists.unsqueeze(2)
            squares = (similarities - teacher_similarities).square().masked_fill(~both, 0.0)
            return (squares.sum((1, 2)) / exists.sum(1).clamp(min=1).square()).mean()

    def _similarities(self, features: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Similarities `(B, n, n)` and which nodes exist, `(B, n)`."""
        grid = (self.nodes, self.nodes)
        features = working_precision(features, mask)
        exists = features.new_ones(len(features), self.nodes**2, dtype=torch.bool)
        if mask is not None:
            exists = F.adaptive_max_pool2d(mask.unsqueeze(1).to(features), grid).flatten(1) > 0
            features = features.masked_fill(~mask.unsqueeze(1), float("-inf"))
        pooled = F.adaptive_max_pool2d(features, grid).flatten(2).masked_fill(~exists.unsqueeze(1), 0.0)
        unit = pooled * inverse_norms(pooled, 2, self.eps)
        return torch.bmm(unit.mT, unit), exists
