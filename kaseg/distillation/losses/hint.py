"""Hint: the student's map, through a regressor, must be the teacher's."""

from torch import Tensor

from kaseg.distillation.losses.base import MapLoss


class HintLoss(MapLoss):
    r"""Squared distance between the student's regressed map and the teacher's (FitNets, Romero et al., ICLR 2015).

    With `s_bi`, `t_bi` the vectors of `c` channels at position `i` of image `b`,

        L_hint = 1 / (B*h*w*c)  sum_b sum_i sum_k (s_bik - t_bik)^2

    The paper has half the sum, and trains with it alone before the labels come in; the mean, and its
    use beside the cross-entropy, are our choice. The regressor, which the paper makes a convolution, is not part of the
    loss: `student` is its output.

    Invariances: moving both maps by one vector, or rotating the channels of both alike, changes nothing; scaling both
    by `k` scales the loss by `k^2`, so the weight depends on the scale of the teacher's map.

    Shapes: student and teacher `(B, c, h, w)`, mask `(B, h, w)` of bool, result `()`.

    Example:
        >>> import torch
        >>> from kaseg.distillation.losses import HintLoss
        >>> teacher = torch.randn(2, 16, 9, 9)
        >>> round(float(HintLoss()(teacher + 0.5, teacher)), 4)
        0.25
    """

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        total = (student - teacher).square().sum()
        if mask is None:
            return total / student.numel()
        return total / (student.shape[1] * mask.sum().clamp(min=1))
