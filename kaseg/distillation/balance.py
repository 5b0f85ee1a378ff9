"""Weights of distillation terms set from the size of their gradients."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class GradientBalance(nn.Module):
    r"""Sets the weights of terms so that the gradient of each at the student's tapped map has a given share of the
    size of the labels' gradient there.

    With `G` the norm of the gradient of the labels' loss at the map (over batch, channels and positions of a whole
    optimizer step) and `G_k` that of the term `k` before it is weighted, both smoothed over the measured steps:

        w_k = share_k * G / G_k,    G <- d * G + (1 - d) * (measured G),    d = min(decay, (n - 1) / (n + 9))

    at the n-th measurement, so that the labels' gradient through a new classifier, whose weights are small, is soon
    forgotten. A measurement in which a gradient is zero or not finite (a batch without labels, a student that equals
    its teacher) is left out, and a term that was never measured has weight 0. A ratio of gradient norms as a weight is
    that of VQGAN (Esser et al. 2021, equation 7), which takes it at the last layer; that it is taken at the tapped map,
    smoothed and measured every few steps is our choice.

    Args:
        shares (`Mapping[str, float]`): Share of each term by name, positive.
        decay (`float`, defaults to 0.9): Largest share of the old norms that a new measurement keeps, in [0, 1).

    Attributes:
        norms (`Tensor` of shape `(2, K)`): Smoothed norms: the labels' in the first row, the terms' in the second; 0
            where nothing was measured yet. A buffer, as is `counts`, so that it is saved with the adapters and a run
            resumes exactly.
        counts (`Tensor` of shape `(K,)`): Measurements of each term that counted.

    Example:

    ```python
    >>> import torch
    >>> from kaseg.distillation.balance import GradientBalance

    >>> balance = GradientBalance({"adaptation": 0.5})
    >>> balance.update(torch.tensor(2.0), torch.tensor([0.01]))
    >>> balance.weights()["adaptation"]
    tensor(100.)

    ```
    """

    norms: Tensor
    counts: Tensor
    shares: Tensor

    def __init__(self, shares: Mapping[str, float], decay: float = 0.9) -> None:
        super().__init__()
        self.names = tuple(shares)
        self.decay = decay
        self.register_buffer("shares", torch.tensor(list(shares.values()), dtype=torch.float32), persistent=False)
        self.register_buffer("norms", torch.zeros(2, len(self.names)))
        self.register_buffer("counts", torch.zeros(len(self.names)))

    @torch.no_grad()
    def update(self, labels: Tensor, terms: Tensor) -> None:
        """Take in a measurement: the norms of the gradients of the labels' loss, `()`, and of the terms, `(K,)`, not
        weighted."""
        measured = torch.stack([labels.expand_as(terms), terms]).float()
        ratio = measured[0] / measured[1]
        says = torch.isfinite(measured).all(0) & torch.isfinite(ratio) & (ratio > 0)
        decay = (self.counts / (self.counts + 10)).clamp(max=self.decay)
        self.norms.copy_(torch.where(says, torch.lerp(measured, self.norms, decay), self.norms))
        self.counts += says

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """The weight of each term, a scalar."""
        labels, terms = self.norms
        weights = torch.where(terms > 0, self.shares * labels / terms, torch.zeros_like(terms))
        return dict(zip(self.names, weights, strict=True))


def squared_norms(losses: Sequence[Tensor], feature_map: Tensor, scale: float = 1.0) -> Tensor:
    """Squared norms `(K,)` of the gradients of scalars `losses` at a map that they were computed from, in float32.

    The graph is kept, and nothing is added to the gradients of parameters. `scale` multiplies the losses, which keeps
    gradients in float16 from vanishing.
    """
    norms = []
    for loss in losses:
        gradient = None
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss * scale, feature_map, retain_graph=True, allow_unused=True)
        norms.append(loss.new_zeros((), dtype=torch.float32) if gradient is None else gradient.float().square().sum())
    return torch.stack(norms)
