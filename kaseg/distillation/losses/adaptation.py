"""Adaptation loss: the student's map must point where the teacher's code points, position by position."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AdaptationLoss(nn.Module):
    r"""Distance between the normalised feature vectors of student and teacher (`L_adapt` of He et al. 2019).

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

    Shapes: student and teacher `(B, c, h, w)`, mask `(B, h, w)` of bool or float, result `()` in float32 (float64 for
    float64).

    Example:
        >>> import torch
        >>> from kaseg.distillation.losses import AdaptationLoss
        >>> student, teacher = torch.randn(2, 2, 16, 9, 9)
        >>> loss = AdaptationLoss()(student, teacher)
        >>> bool(loss <= 2 / 16**0.5), float(AdaptationLoss()(student, 3 * student)) < 1e-6
        (True, True)
    """

    def __init__(self, p: float = 1.0, q: float = 2.0, eps: float = 1e-4) -> None:
        super().__init__()
        if p < 1 or q < 1:
            raise ValueError(f"p and q must be at least 1, got p={p} and q={q}")
        if eps <= 0 or eps**q < torch.finfo(torch.float32).tiny:
            raise ValueError(f"eps must be positive and eps**q must not vanish in float32, got eps={eps} and q={q}")
        self.p, self.q, self.eps = p, q, eps

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Computes the loss in float32 whatever the input type or autocast (float64 in, float64 out).

        Args:
            student (`Tensor` of shape `(B, c, h, w)`): `C_f(Phi_s)`, the student's adapted map.
            teacher (`Tensor` of shape `(B, c, h, w)`): `E(Phi_t)`, the teacher's code.
            mask (`Tensor` of shape `(B, h, w)` and type bool, or float and not negative, *optional*): positions that
                count, or by how much each does. The mean is then over those of the whole batch, weighted (our choice);
                with none at all the loss is 0.

        Raises:
            ValueError: if the shapes do not fit, naming them, or the mask is of integers.
        """
        weights, mask = position_weights(mask)
        check_pair(student, teacher, mask)
        with torch.amp.autocast(student.device.type, enabled=False):
            student, teacher = working_precision(student, mask), working_precision(teacher, mask)
            difference = student * inverse_norms(student, self.q, self.eps)
            difference = difference - teacher * inverse_norms(teacher, self.q, self.eps)
            distance = difference.abs() if self.p == 1 else difference.abs().pow(self.p)
            channels = student.shape[1]
            if weights is not None:
                weights = weights.to(distance.dtype)
                whole = channels * weights.sum()
                return (distance * weights.unsqueeze(1)).sum() / whole.masked_fill(whole == 0, 1)
            if mask is None:
                return distance.sum() / student.numel()
            return distance.sum() / (channels * mask.sum().clamp(min=1))

    def extra_repr(self) -> str:
        return f"p={self.p}, q={self.q}, eps={self.eps}"


def position_weights(mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Weights of positions, where `mask` holds such, and which of the positions count.

    Raises:
        ValueError: if the mask is neither of bool nor of float.
    """
    if mask is None or mask.dtype == torch.bool:
        return None, mask
    if not mask.is_floating_point():
        raise ValueError(f"mask must be of bool, or of float and hold weights, got {mask.dtype}")
    return mask, mask != 0


def working_precision(features: Tensor, mask: Tensor | None) -> Tensor:
    """Raises types below float32 to it and sets the positions that `mask` leaves out to 0.

    Args:
        features (`Tensor` of shape `(B, c, h, w)`): a feature map.
        mask (`Tensor` of shape `(B, h, w)` and type bool, *optional*): positions to keep.
    """
    if features.dtype != torch.float64:
        features = features.float()
    return features if mask is None else features.masked_fill(~mask.unsqueeze(1), 0.0)


def inverse_norms(features: Tensor, q: float, eps: float) -> Tensor:
    """Inverse of the q-norm over channels, smoothed by `eps` (see [`AdaptationLoss`]).

    Args:
        features (`Tensor` of shape `(B, c, ...)`): feature vectors along the second dimension.
        q (`float`): the norm.
        eps (`float`): length below which a vector counts as zero.

    Returns:
        `Tensor` of shape `(B, 1, ...)`, at most `1 / eps`.
    """
    if q == 2:
        return torch.rsqrt(features.square().sum(1, keepdim=True) + eps**2)
    return (features.abs().pow(q).sum(1, keepdim=True) + eps**q).pow(-1 / q)


def check_pair(student: Tensor, teacher: Tensor, mask: Tensor | None, same_channels: bool = True) -> None:
    """Raises `ValueError` unless both maps are `(B, c, h, w)` of one shape and the mask is `(B, h, w)` of bool.

    Without `same_channels` the two may differ in `c`.
    """
    start = 1 if same_channels else 2
    fit = student.ndim == teacher.ndim == 4 and len(student) == len(teacher)
    if not fit or student.shape[start:] != teacher.shape[start:]:
        raise ValueError(
            f"student and teacher must have the same shape (B, c, h, w){'' if same_channels else ' but for c'}, "
            f"got student {tuple(student.shape)} and teacher {tuple(teacher.shape)}"
        )
    check_mask(student, mask)


def check_mask(features: Tensor, mask: Tensor | None) -> None:
    """Raises `ValueError` unless the mask is of bool and `(B, h, w)` for features `(B, c, h, w)`."""
    batch, _, height, width = features.shape
    if mask is not None and (mask.shape != (batch, height, width) or mask.dtype != torch.bool):
        raise ValueError(
            f"mask must be of bool and shape {(batch, height, width)} for features of shape {tuple(features.shape)}, "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )
