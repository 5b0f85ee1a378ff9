"""Logit distillation: the student's class probabilities must be the teacher's, pixel by pixel."""

from torch import Tensor
from torch.nn import functional as F

from kaseg.distillation.losses.base import MapLoss, require_positive


class KnowledgeDistillationLoss(MapLoss):
    r"""Kullback-Leibler divergence between softened class probabilities (Hinton et al., arXiv 1503.02531, 2015).

    With `s_bi`, `t_bi` the logits of `C` classes at position `i` of image `b`,

        p(z)_k = exp(z_k / T) / sum_l exp(z_l / T)
        L_kd   = T^2 / (B*h*w)  sum_b sum_i sum_k  p(t_bi)_k (log p(t_bi)_k - log p(s_bi)_k)

    The softening and the factor T^2, which keeps gradients alike as T changes, are the paper's; that pixels are
    averaged is what dense prediction makes of its sum over examples. T = 4 is the middle of the
    temperatures (2, 4, 6) that He et al. 2019 compared with.

    Invariances: adding a number to all logits of a position changes nothing; neither does permuting classes or
    positions on both sides.

    Args:
        temperature (`float`, defaults to 4.0): T, positive.

    Shapes: logits of student and teacher `(B, C, h, w)`, mask `(B, h, w)` of bool, result `()`.

    Example:
        >>> import torch
        >>> from kaseg.distillation.losses import KnowledgeDistillationLoss
        >>> student, teacher = torch.randn(2, 2, 5, 9, 9)
        >>> loss = KnowledgeDistillationLoss(temperature=2.0)
        >>> bool(loss(student, teacher) > 0), float(loss(teacher + 3.0, teacher)) < 1e-6
        (True, True)
    """

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        require_positive(temperature=temperature)
        self.temperature = temperature

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        # Logits of a masked position are zero on both sides, whose divergence is zero.
        log_student, log_teacher = ((logits / self.temperature).log_softmax(1) for logits in (student, teacher))
        total = F.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
        positions = student.numel() // student.shape[1] if mask is None else mask.sum().clamp(min=1)
        return self.temperature**2 * total / positions
