"""Attention transfer: the student must be active where the teacher is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kaseg.distillation.losses.adaptation import check_pair, working_precision


class AttentionTransferLoss(nn.Module):
    r"""Distance between normalised activation maps (AT, Zagoruyko and Komodakis, ICLR 2017).

    With `x_bi` the vector of channels at position `i` of image `b` with `m` positions that count,

        Q(x)_bi = |x_bi|^2                                  (sum of squares: the paper's best map)
        L_at    = 1/B sum_b 1/m sum_i ( Q(s)_bi / |Q(s)_b| - Q(t)_bi / |Q(t)_b| )^2

    where `|Q_b|` is the L2 norm over the positions of image `b`. The paper weighs the distance by 1000, divided by the
    number of positions and images, which is this mean of squares times 1000.

    Invariances: the scale of either map, image by image, and rotations of its channels change nothing; student and
    teacher may have different numbers of channels.

    Shapes: student `(B, c_s, h, w)`, teacher `(B, c_t, h, w)`, mask `(B, h, w)` of bool, result `()` in float32
    (float64 for float64).

    Example:
        >>> import torch
        >>> from kaseg.distillation.losses import AttentionTransferLoss
        >>> student, teacher = torch.randn(2, 8, 9, 9), torch.randn(2, 16, 9, 9)
        >>> loss = AttentionTransferLoss()
        >>> bool(loss(student, teacher) > 0), float(loss(student, 3 * student)) < 1e-9
        (True, True)
    """

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Computes the loss in float32 whatever the input type or autocast (float64 in, float64 out).

        Args:
            student (`Tensor` of shape `(B, c_s, h, w)`): the student's map.
            teacher (`Tensor` of shape `(B, c_t, h, w)`): the teacher's map.
            mask (`Tensor` of shape `(B, h, w)` and type bool, *optional*): positions that count; `m` is their number in
                each image. An image with none contributes 0.

        Raises:
            ValueError: if the shapes do not fit, naming them, or the mask is not of bool.
        """
        check_pair(student, teacher, mask, same_channels=False)
        with torch.amp.autocast(student.device.type, enabled=False):
            difference = _attention(working_precision(student, mask)) - _attention(working_precision(teacher, mask))
            positions = difference.shape[1] if mask is None else mask.flatten(1).sum(1).clamp(min=1)
            return (difference.square().sum(1) / positions).mean()


def _attention(features: Tensor) -> Tensor:
    """Activation maps `(B, h*w)` of length 1; the norm takes out that the sum is a mean here, to keep squares small."""
    return F.normalize(features.square().mean(1).flatten(1))
