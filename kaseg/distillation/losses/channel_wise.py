"""Channel-wise distillation: each channel must put its weight where the teacher's does."""

import torch
from torch import Tensor
from torch.nn import functional as F

from kaseg.distillation.losses.base import MapLoss, require_positive


class ChannelWiseLoss(MapLoss):
    r"""Kullback-Leibler divergence between the channels' distributions over space (CWD, Shu et al., ICCV 2021).

    With `x_bki` channel `k` at position `i` of image `b`,

        phi(x)_bki = exp(x_bki / T) / sum_j exp(x_bkj / T)                      j runs over the positions
        L_cw       = T^2 / (B*C)  sum_b sum_k sum_i  phi(t)_bki (log phi(t)_bki - log phi(s)_bki)

    The formula, including T^2 / C, is the paper's, and so are T = 4 and the weights: 3 on logits, 50 on feature maps;
    the mean over images is its code's.

    Invariances: adding a number to a whole channel of an image, on either side, changes nothing; neither does permuting
    positions or channels on both sides. (KD normalizes over classes at a position, this over positions in a channel.)

    Args:
        temperature (`float`, defaults to 4.0): T, positive.

    Shapes: student and teacher (logits, or maps of the same channels) `(B, C, h, w)`, mask `(B, h, w)` of bool: the
    positions that distributions run over; result `()`.

    Example:
        >>> import torch
        >>> from kaseg.distillation.losses import ChannelWiseLoss
        >>> student, teacher = torch.randn(2, 2, 5, 9, 9)
        >>> loss = ChannelWiseLoss()
        >>> bool(loss(student, teacher) > 0), float(loss(teacher + torch.randn(2, 5, 1, 1), teacher)) < 1e-6
        (True, True)
    """

    per_image = True

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        require_positive(temperature=temperature)
        self.temperature = temperature

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        log_student, log_teacher = (self._log_distribution(features, mask) for features in (student, teacher))
        total = F.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
        return self.temperature**2 * total / (student.shape[0] * student.shape[1])

    def _log_distribution(self, features: Tensor, mask: Tensor | None) -> Tensor:
        features = features / self.temperature
        if mask is not None:
            # The lowest finite number: its probability is exactly 0, and an image of nothing else does not give nan.
            features = features.masked_fill(~mask.unsqueeze(1), torch.finfo(features.dtype).min)
        return features.flatten(2).log_softmax(2)
