"""Attention transfer: the student must be active where the teacher is."""

from torch import Tensor
from torch.nn import functional as F

from kaseg.distillation.losses.base import MapLoss


class AttentionTransferLoss(MapLoss):
    r"""Distance between normalized activation maps (AT, Zagoruyko and Komodakis, ICLR 2017).

    With `x_bi` the vector of channels at position `i` of image `b` with `m` positions that count,

        Q(x)_bi = |x_bi|^2                                  (sum of squares: the paper's best map)
        L_at    = 1/B sum_b 1/m sum_i ( Q(s)_bi / |Q(s)_b| - Q(t)_bi / |Q(t)_b| )^2

    where `|Q_b|` is the L2 norm over the positions of image `b`. The paper weighs the distance by 1000, divided by the
    number of positions and images, which is this mean of squares times 1000.

    Invariances: the scale of either map, image by image, and rotations of its channels change nothing; student and
    teacher may have different numbers of channels.

    Shapes: student `(B, c_s, h, w)`, teacher `(B, c_t, h, w)`, mask `(B, h, w)` of bool, result `()`.

    Example:
        >>> import torch
        >>> from kaseg.distillation.losses import AttentionTransferLoss
        >>> student, teacher = torch.randn(2, 8, 9, 9), torch.randn(2, 16, 9, 9)
        >>> loss = AttentionTransferLoss()
        >>> bool(loss(student, teacher) > 0), float(loss(student, 3 * student)) < 1e-9
        (True, True)
    """

    same_channels = False
    per_image = True

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        difference = _attention(student) - _attention(teacher)
        positions = difference.shape[1] if mask is None else mask.flatten(1).sum(1).clamp(min=1)
        return (difference.square().sum(1) / positions).mean()


def _attention(features: Tensor) -> Tensor:
    """Activation maps `(B, h*w)` of length 1; the norm takes out that the sum is a mean here, to keep squares small."""
    return F.normalize(features.square().mean(1).flatten(1))
