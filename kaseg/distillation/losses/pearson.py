"""Adaptation per channel: each channel of the student's map must rise and fall over the positions as the teacher's."""

import torch
from torch import Tensor

from kaseg.distillation.losses.base import MapLoss


class PearsonLoss(MapLoss):
    r"""One minus Pearson's correlation of the channels over the positions (PKD, Cao et al., NeurIPS 2022).

    With `x_ki` channel `k` at position `i` of the batch, `w_i` its weight (1 by default) and `<.>` the mean over all
    positions of the batch weighted by `w`,

        c(x)_ki = x_ki - <x_k>                                        sd(x)_k = <c(x)_k^2>^(1/2)
        r_k     = <c(s)_k c(t)_k> / ( (sd(s)_k^2 + eps^2)^(1/2) sd(t)_k )
        L       = 1/c  sum_k  v_k (1 - r_k)                           v_k = sd(t)_k^2 / (sd(t)_k^2 + eps^2)

    Channels centered and scaled over positions and images are PKD's, whose half mean square of the difference is
    `1 - r_k` where both sides vary. Where one does not, that half square gives a constant map half of what an unrelated
    one costs; `1 - r_k` gives it nothing (our choice). `v_k` is 1 but for channels in which the teacher is constant:
    those cannot be followed and do not count (our choice); `eps` and the weights are ours, too.

    The loss is 0 where the two agree but for scale and level of each channel, 1 for maps that are unrelated, or for a
    student's map that is constant, and at most 2, whatever the number of channels: a weight that suits it is another
    one than that of [`AdaptationLoss`], which is at most `2 / sqrt(c)`. Its statistics are those of the positions that
    are seen at once: parts of a batch do not add up to the whole. The gradient of a channel is at most
    `1 / (c eps sqrt(n))` long, `n` being the number of positions.

    Args:
        eps (`float`, defaults to 1e-4): standard deviation below which a channel counts as constant, in units of the
            features.

    Shapes: student and teacher `(B, c, h, w)`, mask `(B, h, w)` of bool or float, result `()`.

    Example:
        >>> import torch
        >>> from kaseg.distillation.losses import PearsonLoss
        >>> teacher, loss = torch.randn(2, 16, 9, 9), PearsonLoss()
        >>> level, scale = torch.randn(1, 16, 1, 1), torch.rand(1, 16, 1, 1) + 0.5
        >>> constant = float(loss(0 * teacher + level, teacher))
        >>> abs(float(loss(scale * teacher + level, teacher))) < 1e-5, round(constant, 4)
        (True, 1.0)
    """

    takes_weights = True

    def __init__(self, eps: float = 1e-4) -> None:
        super().__init__()
        if eps <= 0 or eps**2 < torch.finfo(torch.float32).tiny:
            raise ValueError(f"eps must be positive and eps**2 must not vanish in float32, got eps={eps}")
        self.eps = eps

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        weights = torch.ones_like(student[:, 0]) if mask is None else mask
        weights = weights.to(student.dtype).unsqueeze(1)
        total = weights.sum()
        weights = weights / total.masked_fill(total == 0, 1)
        student, teacher = (x - (weights * x).sum((0, 2, 3), keepdim=True) for x in (student, teacher))
        products = (student.square(), teacher.square(), student * teacher)
        of_student, of_teacher, common = ((weights * product).sum((0, 2, 3)) for product in products)
        smooth = of_teacher + self.eps**2
        # Clamped where the root has no gradient.
        root = of_teacher.clamp(min=self.eps**4).sqrt()
        return ((of_teacher - common * root * torch.rsqrt(of_student + self.eps**2)) / smooth).mean()
