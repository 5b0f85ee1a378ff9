"""Adaptation loss: the student's map must point where the teacher's code points, position by position."""

import torch
from torch import Tensor

from kaseg.distillation.losses.base import MapLoss, inverse_norms


class AdaptationLoss(MapLoss):
    r"""Distance between the normalized feature vectors of student and teacher (`L_adapt` of He et al. 2019).

    With `s_bi`, `t_bi` the vectors of `c` channels at position `i` of image `b`, and `n` a q-norm smooth at zero,

        n(x)    = (sum_k |x_k|^q + eps^q)^(1/q)                     (q = 2: x / n(x) = x * rsqrt(|x|^2 + eps^2))
        L_adapt = 1 / (B*m*c)  sum_b sum_i sum_k | s_bik / n(s_bi) - t_bik / n(t_bi) |^p        m = h*w

    The paper divides each side by its q-norm and takes a p-norm of the difference over all positions; that the norm
    runs over channels at each position, p = 1, q = 2, the mean over images, positions *and channels* are our choice.
    The weight beta = 50 means something only together with this reduction: for p = 1, q = 2 the loss is at most
    2 / sqrt(c), so when `c` changes, compare beta / sqrt(c).

    With weights `w_bi` of positions it is `sum_b sum_i w_bi sum_k |...|^p / (c * sum_b sum_i w_bi)`.

    A zero vector, common after a ReLU, gives 0, and the gradient of `x / n(x)` is bounded by `1 / eps`.

    Args:
        p (`float`, defaults to 1.0): exponent of the difference, at least 1. There is no p-th root.
        q (`float`, defaults to 2.0): norm by which each side is divided, at least 1.
        eps (`float`, defaults to 1e-4): length below which a vector counts as zero, in units of the features.

    Shapes: student `C_f(Phi_s)` and teacher `E(Phi_t)` `(B, c, h, w)`, mask `(B, h, w)` of bool or float, result `()`.

    Example:
        >>> import torch
        >>> from kaseg.distillation.losses import AdaptationLoss
        >>> student, teacher = torch.randn(2, 2, 16, 9, 9)
        >>> loss = AdaptationLoss()(student, teacher)
        >>> bool(loss <= 2 / 16**0.5), float(AdaptationLoss()(student, 3 * student)) < 1e-6
        (True, True)
    """

    takes_weights = True

    def __init__(self, p: float = 1.0, q: float = 2.0, eps: float = 1e-4) -> None:
        super().__init__()
        if p < 1 or q < 1:
            raise ValueError(f"p and q must be at least 1, got p={p} and q={q}")
        if eps <= 0 or eps**q < torch.finfo(torch.float32).tiny:
            raise ValueError(f"eps must be positive and eps**q must not vanish in float32, got eps={eps} and q={q}")
        self.p, self.q, self.eps = p, q, eps

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        difference = student * inverse_norms(student, self.q, self.eps)
        difference = difference - teacher * inverse_norms(teacher, self.q, self.eps)
        distance = difference.abs() if self.p == 1 else difference.abs().pow(self.p)
        if mask is None:
            return distance.sum() / student.numel()
        channels = student.shape[1]
        if mask.dtype == torch.bool:
            return distance.sum() / (channels * mask.sum().clamp(min=1))
        weights = mask.to(distance.dtype)
        whole = channels * weights.sum()
        return (distance * weights.unsqueeze(1)).sum() / whole.masked_fill(whole == 0, 1)
