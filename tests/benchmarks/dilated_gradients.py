"""Weight gradients of dilated depthwise convolutions on the CPU, by type, layout and width, against float64.

    python tests/benchmarks/dilated_gradients.py

Prints relative errors; bfloat16 itself accounts for 0.002. See `kaseg.trainer.dilated_convolutions`.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

CHANNELS, HEIGHT, DILATION = 32, 21, 2
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


def gradient(width: int, dtype: torch.dtype, layout: torch.memory_format) -> torch.Tensor:
    """Of the weights (C, 1, 3, 3), for fixed random images and gradients (2, C, H, width), as float64."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((2, CHANNELS, HEIGHT, width), (CHANNELS, 1, 3, 3))
    # Rounded alike for all, so that they differ by how they compute alone.
    images, weight = (torch.randn(*size, generator=generator).bfloat16().to(dtype) for size in sizes)
    images = images.contiguous(memory_format=layout)
    weight.requires_grad_()
    maps = F.conv2d(images, weight, padding=DILATION, dilation=DILATION, groups=CHANNELS)
    return torch.autograd.grad(maps, weight, images)[0].double()


def main() -> None:
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    print("| width | type | layout | relative error |\n|---|---|---|---|")
    for width in (12, 20, 28, 29, 33, 56, 65):
        expected = gradient(width, torch.float64, torch.contiguous_format)
        for dtype in (torch.float32, torch.bfloat16):
            for name, layout in LAYOUTS.items():
                error = (gradient(width, dtype, layout) - expected).norm() / expected.norm()
                print(f"| {width} | {str(dtype).removeprefix('torch.')} | {name} | {error:.1e} |")


if __name__ == "__main__":
    main()
