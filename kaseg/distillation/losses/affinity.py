"""Affinity loss: how alike any two positions are must agree between student and teacher."""

from typing import Any

import torch
from torch import Tensor

from kaseg.distillation.losses.base import MapLoss, inverse_norms, require_positive, without_autocast

# Below this many positions per channel the plain m x m matrix takes less time than the c x c form, and no more memory.
PLAIN_POSITIONS_PER_CHANNEL = 3


class AffinityLoss(MapLoss):
    r"""Distance between the affinity matrices of student and teacher (`L_aff` of He et al. 2019).

    With `s_i`, `t_i` the vectors of `c` channels at position `i` of one image with `m` positions that count,

        A^s_ij = (1/m) cos(s_i, s_j)          cos(x, y) = u(x).u(y)          u(x) = x * rsqrt(|x|^2 + eps^2)
        L_aff  = (1/B) sum_b sum_i ( sum_j (A^s_ij - A^t_ij)^2 )^(1/2)

    Cosine affinities between positions and the L2 penalty summed over positions are the paper's; the factor 1/m, the
    root of each row and the mean over the batch are our reading. The loss grows like sqrt(m): when the stride changes,
    compare gamma * sqrt(m).

    **No m x m matrix is formed where m is large.** With unit rows S, T of shape `(m, c)`, D = S - T and P = S + T,
    row i of `S S^T - T T^T` is `(D p_i + P d_i) / 2`, whose squared length needs only c x c matrices:

        1/4 [ p_i^T (D^T D) p_i + 2 p_i^T (D^T P) d_i + d_i^T (P^T P) d_i ]

    That is O(m c^2) time and O(m c) memory, forward and backward, and exact; nothing cancels as S approaches T, since
    every term has D twice. Where m < 3c the plain matrix is used, being faster there. Identical inputs give exactly 0
    and zero gradient. What this form cannot resolve in float32 are rows of the two matrices that agree to about 3e-4
    although S and T differ widely, as when one is a rotation of the other; their gradient is then damped, not blown up.

    Args:
        eps (`float`, defaults to 1e-4): length below which a vector counts as zero, in units of the features. A zero
            vector has affinity 0 with every position, and the gradient stays bounded.
        squared_rows (`bool`, defaults to `False`): sum the squared row lengths instead (our choice, for sweeps).

    Shapes: student `C_a(Phi_s)` and teacher `E(Phi_t)` `(B, c, h, w)`, mask `(B, h, w)` of bool: positions that count
    as rows and as columns, `m` being their number in each image; result `()`.

    Example:
        >>> import torch
        >>> from kaseg.distillation.losses import AffinityLoss
        >>> student, teacher = torch.randn(2, 2, 16, 9, 9)
        >>> AffinityLoss()(student, teacher).shape, float(AffinityLoss()(student, student))
        (torch.Size([]), 0.0)
    """

    per_image = True

    def __init__(self, eps: float = 1e-4, squared_rows: bool = False) -> None:
        super().__init__()
        require_positive(eps=eps)
        self.eps, self.squared_rows = eps, squared_rows

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        # A masked position is a zero vector, whose row and column are zero on both sides.
        student, teacher = student.flatten(2), teacher.flatten(2)
        inverse_student, inverse_teacher = inverse_norms(student, 2, self.eps), inverse_norms(teacher, 2, self.eps)
        difference = _unit_difference(student, teacher, inverse_student, inverse_teacher)
        rows = _RowLengths.apply(student * inverse_student, teacher * inverse_teacher, difference, self.squared_rows)
        positions = student.shape[2] if mask is None else mask.flatten(1).sum(1).clamp(min=1)
        return (rows.sum(1) / (positions**2 if self.squared_rows else positions)).mean()


@torch.no_grad()
def _unit_difference(student: Tensor, teacher: Tensor, inverse_student: Tensor, inverse_teacher: Tensor) -> Tensor:
    """`student * inverse_student - teacher * inverse_teacher` to full relative precision however close the two are.

    Subtracting rounded unit vectors would leave few correct digits when they nearly agree; here the small factors,
    `student - teacher` and the difference of the inverse norms, are formed before anything is rounded. With x the
    longer and y the shorter vector, x/|x| - y/|y| = (x - y)/|x| + y (1/|x| - 1/|y|), where no term is longer than 2.

    Shapes: student and teacher `(B, c, m)`, their inverse norms `(B, 1, m)`, result `(B, c, m)`.
    """
    difference = student - teacher
    gap = (difference * (student + teacher)).sum(1, keepdim=True)
    gap.mul_(inverse_student * inverse_teacher).mul_(
        inverse_student * inverse_teacher / (inverse_student + inverse_teacher)
    )
    shorter = torch.where(inverse_student > inverse_teacher, student, teacher)
    return difference.mul_(torch.minimum(inverse_student, inverse_teacher)).addcmul_(shorter, gap, value=-1)


class _RowLengths(torch.autograd.Function):
    """Lengths, or squared lengths, `(B, m)` of the rows of `R = S^T S - T^T T` for unit S, T of shape `(B, c, m)`.

    Channels come first here: `d_i` is column i of D = S - T, `p_i` of P = S + T. D is passed in, because it can be more
    precise than the difference of S and T; no gradient is returned for it. With n_i the length of row i, and w_i either
    (dL/dn_i) / n_i or, for squared lengths, 2 dL/d(n_i^2),

        dL/ds_i =    w_i sum_j s_j R_ji + sum_j w_j s_j R_ji
        dL/dt_i = - (w_i sum_j t_j R_ji + sum_j w_j t_j R_ji)

    and since R_ji = (d_j.p_i + p_j.d_i) / 2, each sum over j is a c x c matrix applied to p_i and another to d_i.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, difference: Tensor, squared: bool) -> Tensor:
        total = student + teacher
        channels, positions = student.shape[1:]
        ctx.plain = positions < PLAIN_POSITIONS_PER_CHANNEL * channels
        saved: list[Tensor | None]
        if ctx.plain:
            rows = torch.bmm(difference.mT, total)
            rows = (rows + rows.mT).mul_(0.5)
            lengths, saved = rows.square().sum(2), [rows]
            floor = torch.zeros_like(lengths)
        else:
            lengths, floor, saved = _squared_lengths(total, difference, ctx.needs_input_grad)
        if squared:
            weights = torch.full_like(lengths, 2.0)
            lengths = lengths.clamp(min=0)
        else:
            # A squared length below its own rounding error is noise, and its root must not be divided by. Equal inputs
            # have an error of exactly zero; there the gradient is zero.
            divisor = torch.maximum(lengths, floor).sqrt()
            weights = torch.where(divisor > 0, 1 / divisor, 0)
            lengths = lengths.clamp(min=0).sqrt()
        ctx.save_for_backward(total, difference, weights, *saved)
        return lengths

    @staticmethod
    def backward(ctx: Any, grad_lengths: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("AffinityLoss has no second derivative: call backward without create_graph=True")
        total, difference, weights, *saved = ctx.saved_tensors
        grads: list[Tensor | None] = [None] * 4
        with without_autocast(total):
            weights = weights * grad_lengths
            for side, sign in enumerate((1, -1)):
                if not ctx.needs_input_grad[side]:
                    continue
                doubled = torch.add(total, difference, alpha=sign)  # 2 S, then 2 T
                if ctx.plain:
                    weighted_rows = saved[0] * (weights.unsqueeze(1) + weights.unsqueeze(2))
                    grads[side] = torch.bmm(doubled, weighted_rows).mul_(0.5 * sign)
                    continue
                weights_row = weights.unsqueeze(1)
                doubled.mul_(weights_row)
                grad = torch.mul(saved[side], weights_row)
                grad.baddbmm_(torch.bmm(doubled, difference.mT), total, alpha=0.25)
                grad.baddbmm_(torch.bmm(doubled, total.mT), difference, alpha=0.25)
                grads[side] = grad if sign > 0 else grad.neg_()
        return tuple(grads)


def _squared_lengths(
    total: Tensor, difference: Tensor, needs_grad: tuple[bool, ...]
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Squared row lengths by c x c matrices, for P = `total` and D = `difference` of shape `(B, c, m)`.

    Returns:
        the squared lengths `(B, m)`, their rounding errors `(B, m)`, and for student and teacher, where `needs_grad`,
        `sum_j s_j R_ji` and `sum_j t_j R_ji` of shape `(B, c, m)`.
    """
    gram = torch.bmm(difference, difference.mT)
    cross = torch.bmm(difference, total.mT)
    from_difference = torch.bmm(gram, total).baddbmm_(cross, difference)  # 2 sum_j d_j R_ji
    from_total = torch.bmm(cross.mT, total).baddbmm_(torch.bmm(total, total.mT), difference)  # 2 sum_j p_j R_ji
    lengths = ((from_difference * total).sum(1) + (from_total * difference).sum(1)).mul_(0.25)
    # The terms of a squared length are at most |p_i|^2 sum_j |d_j|^2 and |d_i|^2 sum_j |p_j|^2, and |p| is at most 2.
    size = difference.square().sum(1)
    floor = (size.sum(1, keepdim=True) + size * size.shape[1]).mul_(torch.finfo(size.dtype).eps)
    saved = [
        torch.add(from_total, from_difference, alpha=sign).mul_(0.25) if needed else None
        for needed, sign in zip(needs_grad[:2], (1, -1), strict=True)
    ]
    return lengths, floor, saved
