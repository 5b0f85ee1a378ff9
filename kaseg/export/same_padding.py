"""TensorFlow's padding in a form that traces quickly and that a quantiser cannot round."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from timm.layers import Conv2dSame
from torch import nn
from torch.nn import functional as F


def pad_in_whole_numbers(model: nn.Module) -> None:
    """Let timm's convolutions with TensorFlow's "SAME" padding compute it without fractions, in place.

    timm's formula divides sizes and rounds them up. With free sizes that is arithmetic in floats, which nests with
    every stride and takes tracing most of its time. The same in whole numbers is our choice.
    """
    for module in model.modules():
        if type(module) is Conv2dSame:
            module.__class__ = _WholeNumberConv2dSame


class _WholeNumberConv2dSame(Conv2dSame):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, [*self._padding(x, 1), *self._padding(x, 0)])
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    def _padding(self, x: torch.Tensor, axis: int) -> Iterator[int]:
        """Zeros before and after the image along its height (0) or width (1): as many as the last window lacks."""
        stride, span = self.stride[axis], (self.kernel_size[axis] - 1) * self.dilation[axis]
        # With a stride of 1 nothing depends on the size.
        lacking = span if stride == 1 else span - (x.shape[2 + axis] - 1) % stride
        if span < stride - 1:  # windows with gaps between them
            lacking = max(lacking, 0)
        yield lacking // 2
        yield lacking - lacking // 2
