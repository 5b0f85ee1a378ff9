"""TensorFlow's padding in a form that traces quickly, that can be saved and that a quantizer cannot round."""

from collections.abc import Iterator, Sequence

import torch
from timm.layers import AvgPool2dSame, Conv2dSame
from torch import nn
from torch.nn import functional as F


def pad_in_whole_numbers(model: nn.Module) -> None:
    """Let timm's convolutions and average pools with TensorFlow's "SAME" padding do without fractions, in place.

    timm's formula divides sizes and rounds them up. With free sizes that is arithmetic in floats, which nests with
    every stride, takes tracing most of its time, and for pools is refused by `torch.export.save`. The same in whole
    numbers is our choice.
    """
    for module in model.modules():
        if type(module) in _WHOLE:
            module.__class__ = _WHOLE[type(module)]


class _WholeNumberConv2dSame(Conv2dSame):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = _padded(x, self.kernel_size, self.stride, self.dilation)
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class _WholeNumberAvgPool2dSame(AvgPool2dSame):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = _padded(x, self.kernel_size, self.stride, (1, 1))  # type: ignore[arg-type]
        return F.avg_pool2d(x, self.kernel_size, self.stride, 0, self.ceil_mode, self.count_include_pad)


_WHOLE: dict[type[nn.Module], type[nn.Module]] = {
    Conv2dSame: _WholeNumberConv2dSame,
    AvgPool2dSame: _WholeNumberAvgPool2dSame,
}


def _padded(x: torch.Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> torch.Tensor:
    rows, columns = (_padding(x.shape[2 + axis], kernel[axis], stride[axis], dilation[axis]) for axis in (0, 1))
    return F.pad(x, [*columns, *rows])


def _padding(size: int, kernel: int, stride: int, dilation: int) -> Iterator[int]:
    """Zeros before and after an axis of the image: as many as the last window lacks."""
    span = (kernel - 1) * dilation
    # With a stride of 1 nothing depends on the size.
    lacking = span if stride == 1 else span - (size - 1) % stride
    if span < stride - 1:  # windows with gaps between them
        lacking = max(lacking, 0)
    yield lacking // 2
    yield lacking - lacking // 2
