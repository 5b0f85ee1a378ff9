"""Around a fault of PyTorch on CPUs, whose gradients of dilated convolutions in groups are wrong in bfloat16.

With oneDNN's kernels for AVX-512 (seen in PyTorch 2.15), the gradient of the weights is anything at all, infinite at
times, where the images lie channels-last, as `torch.compile` lays them out, and the map is wider than 28 positions.
Depthwise convolutions of encoders at a small output stride are such.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import nn
from torch.nn import functional as F


class _InFloat32(nn.Conv2d):
    """A convolution that computes in the type of its weights where training autocasts."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not (self.training and torch.is_autocast_enabled("cpu") and input.device.type == "cpu"):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.to(self.weight.dtype)).to(input.dtype)


@cache
def gradient_is_wrong() -> bool:
    """Whether this machine's PyTorch has the fault: found by trying, on one small map in both layouts."""
    generator = torch.Generator().manual_seed(0)
    images, weight = (torch.randn(*size, generator=generator).bfloat16() for size in ((1, 32, 9, 33), (32, 1, 3, 3)))
    gradients = []
    for layout in (torch.contiguous_format, torch.channels_last):
        own = weight.clone().requires_grad_()
        maps = F.conv2d(images.contiguous(memory_format=layout), own, padding=2, dilation=2, groups=32)
        (gradient,) = torch.autograd.grad(maps, own, images.contiguous(memory_format=layout))
        gradients.append(gradient.float())
    expected, found = gradients
    return not bool((found - expected).norm() < 0.1 * expected.norm())


def keep_out_of_autocast(model: nn.Module) -> None:
    """Has the dilated convolutions in groups of a model computed in float32 where training autocasts, in place.

    Weights, their names and what happens outside of training stay as they are. Our choice.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1 and max(module.dilation) > 1:
            # Not another forward, which a copy of the module would share.
            module.__class__ = _in_float32(type(module))  # type: ignore[arg-type]


@cache
def _in_float32(kind: type[nn.Conv2d]) -> type[nn.Conv2d]:
    return kind if issubclass(kind, _InFloat32) else type(kind.__name__, (_InFloat32, kind), {})
