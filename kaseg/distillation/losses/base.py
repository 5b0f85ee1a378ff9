"""What the losses between a student's map and a teacher's have in common."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn


class MapLoss(nn.Module):
    """A loss between two maps, computed in float32 whatever their type or autocast (float64 in, float64 out).

    Attributes:
        same_channels: Whether both maps must have equally many channels.
        takes_weights: Whether a mask may hold weights of positions.
        takes_labels: Whether it reads labels in place of a mask, and leaves out void by itself.
        per_image: Whether it is a mean over images, each with its own denominator, and not over the batch's positions.
    """

    same_channels = True
    takes_weights = False
    takes_labels = False
    per_image = False

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss, a scalar.

        Args:
            student, teacher (`Tensor` of shape `(B, c, h, w)`): The two maps.
            mask (`Tensor` of shape `(B, h, w)` and type bool, *optional*): Positions that count. Losses that take
                weights also read float numbers of at least 0: by how much each counts. With none at all the loss is 0.

        Raises:
            ValueError: the shapes do not fit, or the mask is of another type; the message names them.
        """
        counted = mask
        if self.takes_weights and mask is not None and mask.dtype != torch.bool:
            if not mask.is_floating_point():
                raise ValueError(f"mask must be of bool, or of float and hold weights, got {mask.dtype}")
            counted = mask != 0
        check_pair(student, teacher, counted, self.same_channels)
        with without_autocast(student):
            return self.compare(working_precision(student, counted), working_precision(teacher, counted), mask)

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """The formula, on maps in float32 or float64 that are 0 where the mask leaves positions out."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, int | float)}
        return ", ".join(f"{name}={value}" for name, value in numbers.items() if name != "training")


def without_autocast(features: Tensor) -> AbstractContextManager:
    """Inside, operations on the device of `features` keep their type."""
    return torch.amp.autocast(features.device.type, enabled=False)


def working_precision(features: Tensor, mask: Tensor | None) -> Tensor:
    """Raises types below float32 to it and sets the positions that `mask` (bool, `(B, h, w)`) leaves out to 0."""
    if features.dtype != torch.float64:
        features = features.float()
    return features if mask is None else features.masked_fill(~mask.unsqueeze(1), 0.0)


def inverse_norms(features: Tensor, q: float, eps: float) -> Tensor:
    """Inverse of the q-norm over channels of `(B, c, ...)`, smooth at zero: `(sum_k |x_k|^q + eps^q)^(-1/q)`, `(B, 1,
    ...)`, at most `1 / eps`; `eps` is the length below which a vector counts as zero."""
    if q == 2:
        return torch.rsqrt(features.square().sum(1, keepdim=True) + eps**2)
    return (features.abs().pow(q).sum(1, keepdim=True) + eps**q).pow(-1 / q)


def check_pair(student: Tensor, teacher: Tensor, mask: Tensor | None, same_channels: bool = True) -> None:
    """Raises `ValueError` unless both maps are `(B, c, h, w)` of one shape, or but for `c`, and the mask fits them."""
    start = 1 if same_channels else 2
    fit = student.ndim == teacher.ndim == 4 and len(student) == len(teacher)
    if not fit or student.shape[start:] != teacher.shape[start:]:
        raise ValueError(
            f"student and teacher must have the same shape (B, c, h, w){'' if same_channels else ' but for c'}, "
            f"got student {tuple(student.shape)} and teacher {tuple(teacher.shape)}"
        )
    check_mask(student, mask)


def check_mask(features: Tensor, mask: Tensor | None) -> None:
    """Raises `ValueError` unless the mask is of bool and `(B, h, w)` for features `(B, c, h, w)`."""
    batch, _, height, width = features.shape
    if mask is not None and (mask.shape != (batch, height, width) or mask.dtype != torch.bool):
        raise ValueError(
            f"mask must be of bool and shape {(batch, height, width)} for features of shape {tuple(features.shape)}, "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )


def require_positive(**values: float) -> None:
    """Raises `ValueError` that names the argument if a value is not positive."""
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")
