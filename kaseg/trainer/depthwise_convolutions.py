"""Depthwise convolutions with a stride or a dilation, which PyTorch trains slowly or wrongly on CPUs.

Measured with PyTorch 2.15 and oneDNN on AVX-512 (`tests/benchmarks/depthwise_convolutions.py`):

- no fast kernel takes a dilation, in float32 or in bfloat16. In bfloat16 the gradient of the weights is even wrong,
  infinite at times, where the images lie channels-last and the map is wider than 28 positions;
- with a stride, a forward and backward pass takes 3 to 8 times as long in bfloat16 as in float32.

In a MobileNetV2 at stride 16 this costs half of the encoder's time in bfloat16.
"""

from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class _Depthwise(nn.Conv2d):
    """The same convolution, in training on a CPU by other kernels."""

    _plain = True  # not a layer that computes its padding or its weights itself

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # Its class is made here, so that pickle would not find it by name.
        return _without_state, (type(self).__bases__[1],), self.__dict__

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or input.device.type != "cpu":
            return super().forward(input)
        if self._has_phases():
            return self._phase_by_phase(input)
        if not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.to(self.weight.dtype)).to(torch.get_autocast_dtype("cpu"))

    def _has_phases(self) -> bool:
        dilation = self.dilation[0]
        return (
            self._plain
            and dilation > 1
            and self.dilation == (dilation, dilation)
            and self.stride == (1, 1)
            and self.groups == self.in_channels == self.out_channels
            and self.padding_mode == "zeros"
            and all(size % 2 for size in self.kernel_size)
            and self.padding == tuple(dilation * (size // 2) for size in self.kernel_size)
        )

    def _phase_by_phase(self, input: torch.Tensor) -> torch.Tensor:
        """Every `dilation`-th position sees only others of its phase, so a phase is an image without dilation."""
        dilation, (height, width) = self.dilation[0], input.shape[-2:]
        padded = F.pad(input, (0, -width % dilation, 0, -height % dilation)).permute(0, 2, 3, 1)
        phases = padded.unflatten(2, (-1, dilation)).unflatten(1, (-1, dilation)).permute(2, 4, 0, 1, 3, 5)
        images = phases.flatten(0, 2).permute(0, 3, 1, 2)
        padding = [size // 2 for size in self.kernel_size]
        maps = F.conv2d(images, self.weight, self.bias, padding=padding, groups=self.groups)
        whole = maps.permute(0, 2, 3, 1).unflatten(0, phases.shape[:3]).permute(2, 3, 0, 4, 1, 5)
        return whole.reshape(padded.shape).permute(0, 3, 1, 2)[..., :height, :width]


def train_fast_on_cpu(model: nn.Module) -> None:
    """Has the depthwise and grouped convolutions of a model that have a stride or a dilation trained by fast and right
    kernels on CPUs, in place.

    A dilation is undone by convolving each of its phases alone, which is exact. Other such layers compute in float32
    where training autocasts. Weights, their names and what happens outside of training stay as they are. Our choice.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1 and max(*module.dilation, *module.stride) > 1:
            # Not another forward, which a copy of the module would share.
            module.__class__ = _depthwise(type(module))  # type: ignore[arg-type]


@cache
def _depthwise(kind: type[nn.Conv2d]) -> type[nn.Conv2d]:
    if issubclass(kind, _Depthwise):
        return kind
    return type(kind.__name__, (_Depthwise, kind), {"_plain": kind.forward is nn.Conv2d.forward})


def _without_state(kind: type[nn.Conv2d]) -> nn.Conv2d:
    made = _depthwise(kind)  # type: ignore[arg-type]
    return made.__new__(made)
