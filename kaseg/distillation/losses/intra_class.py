"""Intra-class feature variation: how far pixels lie from their class's mean must agree with the teacher."""

import torch
from torch import Tensor

from kaseg.distillation.losses.base import (
    MapLoss,
    check_pair,
    inverse_norms,
    require_positive,
    without_autocast,
    working_precision,
)
from kaseg.pixels import VOID


class IntraClassLoss(MapLoss):
    r"""Squared difference of the pixels' similarities to their class centers (IFVD, Wang et al., ECCV 2020).

    With `x_bi` the vector of channels and `y_bi` the label at position `i` of image `b`,

        mu(x)_bk = mean of x_bj over the positions j of image b with y_bj = k
        M(x)_bi  = cos(x_bi, mu(x)_b,y_bi)
        L_ifv    = 1/N  sum over labelled (b, i) of (M(s)_bi - M(t)_bi)^2           N = number of labelled positions

    Class centers, cosines and squares are the paper's; one center per class and image and the weight of 200 are its
    code's. That code counts void positions in N, where they contribute 0; here they are left out, so that N is what is
    summed. Centers are differentiated too.

    Invariances: the scale of either map and rotations of its channels change nothing; neither does renaming classes; a
    class of a single position contributes nothing. Student and teacher may have different numbers of channels.

    Args:
        eps (`float`, defaults to 1e-4): length below which a vector counts as zero, in units of the features.

    Shapes: student `(B, c_s, h, w)`, teacher `(B, c_t, h, w)`, labels `(B, h, w)` int64 in 0 to
    255, where 255 is void, result `()`.

    Example:
        >>> import torch
        >>> from kaseg.distillation.losses import IntraClassLoss
        >>> student, teacher = torch.randn(2, 8, 9, 9), torch.randn(2, 16, 9, 9)
        >>> labels = torch.randint(0, 3, (2, 9, 9))
        >>> loss = IntraClassLoss()
        >>> bool(loss(student, teacher, labels) > 0), float(loss(student, 3 * student, labels)) < 1e-6
        (True, True)
    """

    takes_labels = True
    same_channels = False

    def __init__(self, eps: float = 1e-4) -> None:
        super().__init__()
        require_positive(eps=eps)
        self.eps = eps

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        """As in [`~kaseg.distillation.losses.base.MapLoss`], with labels at the maps' grid in place of a mask."""
        mask = labels.ne(VOID)
        check_pair(student, teacher, mask, self.same_channels)
        with without_autocast(student):
            image = torch.arange(len(labels), device=labels.device).view(-1, 1, 1)
            group = (256 * image + labels).flatten()
            student, teacher = (self._similarities(working_precision(x, mask), group) for x in (student, teacher))
            squares = (student - teacher).square().masked_fill(~mask.flatten(), 0.0)
            return squares.sum() / mask.sum().clamp(min=1)

    def _similarities(self, features: Tensor, group: Tensor) -> Tensor:
        """Cosine `(B*h*w)` of each position's vector to the mean over the positions of its group."""
        vectors = features.permute(0, 2, 3, 1).flatten(0, 2)
        centers = vectors.new_zeros(256 * len(features), vectors.shape[1]).index_add(0, group, vectors)
        counts = vectors.new_zeros(len(centers)).index_add(0, group, vectors.new_ones(len(group)))
        centers = centers / counts.clamp(min=1).unsqueeze(1)
        centers = centers * inverse_norms(centers, 2, self.eps)
        return (vectors * inverse_norms(vectors, 2, self.eps) * centers[group]).sum(1)
