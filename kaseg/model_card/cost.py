"""What a model costs, and on what machine that was found."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def gflops(model: Any, height: int = 513, width: int = 513) -> float:
    """Cost of one image of `height` x `width` pixels: 2 x multiply-adds of convolutions and matrix products, in 10^9.

    Nothing is computed: shapes alone go through the network, whatever device it is on.
    """
    was_training = model.training
    model.eval()
    tensors = {name: t.to("meta") for name, t in [*model.named_parameters(), *model.named_buffers()]}
    dtype = next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.float32)
    image = torch.zeros(1, getattr(model.config, "num_channels", 3), height, width, device="meta", dtype=dtype)
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            torch.func.functional_call(model, tensors, (image,))
    finally:
        model.train(was_training)
    return counter.get_total_flops() / 1e9


def parameter_count(model: torch.nn.Module) -> int:
    """Number of parameters, BatchNorm's included, its running statistics not."""
    return sum(parameter.numel() for parameter in model.parameters())


def hardware() -> str:
    """The machine that this process computes on."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return cpu()


def cpu() -> str:
    """The processor and how many of its threads torch takes."""
    return f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
