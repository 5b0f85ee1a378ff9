"""Adaptation to a whitened code: every direction in which the teacher's code varies counts alike."""

import torch
from torch import Tensor

from kaseg.distillation.losses.base import check_pair, without_autocast
from kaseg.distillation.losses.pearson import PearsonLoss


class WhitenedLoss(PearsonLoss):
    r"""[`PearsonLoss`] of the student's map and the whitened code of the teacher (after VkD, Miles et al., CVPR 2024).

    With `m` and `C` the mean and the covariance `(c, c)` of the teacher's code over positions,

        W = (C + (shrinkage * tr(C) / c + eps^2) I)^(-1/2)                    (symmetric: ZCA)
        L = PearsonLoss(s, W (t - m))

    VkD projects the student by a matrix with orthonormal rows, so that the projection cannot learn in the student's
    place, and normalizes the teacher's side: whitens it, or standardizes its channels, as its released code for
    recognition does. From it are the projection ([`~kaseg.distillation.adapters.OrthogonalAdapter`]), the whitening and
    the standardized student. Ours are what is compared in the end (the correlation, where that code has a smooth L1),
    symmetric whitening, the shrinkage, and when `m` and `C` are measured: they are updated with each of the first
    `measured_batches` training batches, saved with the adapters, and then stay fixed. Without shrinkage, directions in
    which a code hardly varies, which are mostly noise, would count as much as any.

    Args:
        channels (`int`): `c`.
        measured_batches (`int`, defaults to 100): batches of which mean and covariance are taken, at least 1.
        shrinkage (`float`, defaults to 0.01): share of the mean variance that is added to each direction's, positive.
        eps (`float`, defaults to 1e-4): standard deviation below which a channel counts as constant, in units of the
            features.

    Shapes: student and teacher `(B, c, h, w)`, mask `(B, h, w)` of bool or float, result `()`. In training, the
    first batches are measured before they are whitened, all positions of them.

    Example:
        >>> import torch
        >>> from kaseg.distillation.losses import WhitenedLoss
        >>> teacher, loss = torch.randn(4, 8, 9, 9).relu(), WhitenedLoss(8)
        >>> unrelated = loss(torch.randn(4, 8, 9, 9), teacher)
        >>> bool(0.8 < unrelated < 1.2), abs(float(loss(loss.whiten(teacher), teacher))) < 0.01
        (True, True)
    """

    mean: Tensor
    scatter: Tensor
    positions: Tensor
    batches: Tensor
    whitener: Tensor

    def __init__(self, channels: int, measured_batches: int = 100, shrinkage: float = 0.01, eps: float = 1e-4) -> None:
        super().__init__(eps)
        if channels < 1 or measured_batches < 1:
            raise ValueError(f"channels and measured_batches must be at least 1, got {channels} and {measured_batches}")
        if shrinkage <= 0:
            raise ValueError(f"shrinkage must be positive, or rounding errors of dead channels count, got {shrinkage}")
        self.measured_batches, self.shrinkage = measured_batches, shrinkage
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scatter", torch.zeros(channels, channels))
        self.register_buffer("positions", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.register_buffer("whitener", torch.eye(channels))

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        check_pair(student, teacher, None)
        if teacher.shape[1] != len(self.mean):
            raise ValueError(f"the teacher's code has {teacher.shape[1]} channels, not {len(self.mean)}")
        with without_autocast(student):
            if self.training and self.batches < self.measured_batches:
                self._measure(teacher)
            return super().forward(student, self.whiten(teacher), mask)

    def whiten(self, teacher: Tensor) -> Tensor:
        """`W (t - m)` of a code `(B, c, h, w)`."""
        dtype = torch.float64 if teacher.dtype == torch.float64 else torch.float32
        centered = teacher.to(dtype) - self.mean.to(dtype)[:, None, None]
        return torch.einsum("kc,bchw->bkhw", self.whitener.to(dtype), centered)

    @torch.no_grad()
    def _measure(self, teacher: Tensor) -> None:
        """Takes a batch into mean and covariance (Chan et al. 1983), without loss of digits, and whitens by them."""
        vectors = teacher.detach().float().transpose(0, 1).flatten(1)
        count = vectors.shape[1]
        mean = vectors.mean(1)
        centered = vectors - mean[:, None]
        total = self.positions + count
        apart = mean - self.mean
        self.scatter += centered @ centered.T + torch.outer(apart, apart) * (self.positions * count / total)
        self.mean += apart * (count / total)
        self.positions.copy_(total)
        self.batches += 1
        # In float64, on the CPU since not every device has it: what float32 mixes of other directions into a channel
        # that is constant would count, however little it is.
        variances, directions = torch.linalg.eigh((self.scatter / total).cpu().double())
        floor = self.shrinkage * variances.mean() + self.eps**2
        scales = torch.rsqrt(variances.clamp(min=0) + floor)
        self.whitener.copy_(directions * scales @ directions.T)
