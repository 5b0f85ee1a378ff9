"""Hint: the student's map, through a regressor, must be the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kaseg.distillation.losses.adaptation import check_pair, working_precision


class HintLoss(nn.Module):
    r"""Squared distance between the student's regressed map and the teacher's (FitNets, Romero et al., ICLR 2015).

    With `s_bi`, `t_bi` the vectors of `c` channels at position `i` of image `b`,

        L_hint = 1 / (B*h*w*c)  sum_b sum_i sum_k (s_bik - t_bik)^2

    The paper has half the sum, and trains with it alone before the labels come in; the mean, and its
    use beside the cross-entropy, are our choice. The regressor, which the paper makes a convolution, is not part of the
    loss: `student` is its output.

    Invariances: moving both maps by one vector, or rotating the channels of both alike, changes nothing; scaling both
    by `k` scales the loss by `k^2`, so the weight depends on the scale of the teacher's map.

    Shapes: student and teacher `(B, c, h, w)`, mask `(B, h, w)` of bool, result `()` in float32 (float64 for float64).

    Example:
        >>> import torch
        >>> from kaseg.distillation.losses import HintLoss
        >>> teacher = torch.randn(2, 16, 9, 9)
        >>> round(float(HintLoss()(teacher + 0.5, teacher)), 4)
        0.25
    """

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Computes the loss in float32 whatever the input type or autocast (float64 in, float64 out).

        Args:
            student (`Tensor` of shape `(B, c, h, w)`): the student's map behind the regressor.
            teacher (`Tensor` of shape `(B, c, h, w)`): the teacher's map.
            mask (`Tensor` of shape `(B, h, w)` and type bool, *optional*): positions that count. The mean is then over
                those of the whole batch; with none at all the loss is 0.

        Raises:
            ValueError: if the shapes do not fit, naming them, or the mask is not of bool.
        """
        check_pair(student, teacher, mask)
        with torch.amp.autocast(student.device.type, enabled=False):
            total = (working_precision(student, mask) - working_precision(teacher, mask)).square().sum()
            if mask is None:
                return total / student.numel()
            return total / (student.shape[1] * mask.sum().clamp(min=1))
