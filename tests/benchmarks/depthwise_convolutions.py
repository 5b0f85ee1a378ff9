"""Depthwise convolutions of a MobileNetV2 on the CPU in training: PyTorch's own against those that trainers use.

    python tests/benchmarks/depthwise_convolutions.py --threads 1

For each layer, type and layout of the images: median milliseconds of a forward and backward pass of both, in turn, and
the relative error of the weights' gradient of both against float64 (bfloat16 itself accounts for 0.002). Then a whole
training step of a student at stride 16. See `kaseg.trainer.depthwise_convolutions`.
"""

import argparse
import copy
import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from kaseg import KASegConfig, KASegModel
from kaseg.evaluation.cost import milliseconds
from kaseg.trainer.depthwise_convolutions import train_fast_on_cpu

# Channels, side of the map, stride, dilation: of a student at stride 16 on crops of 192 pixels, and a wider map.
LAYERS = [(96, 96, 2, 1), (144, 48, 2, 1), (192, 24, 2, 1), (960, 12, 1, 2), (960, 33, 1, 2)]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


def passes(layer: nn.Conv2d, images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The gradient of the weights, for a gradient of ones and twos."""
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        maps = layer(images.to(dtype))
    pulled = (1 + torch.arange(maps.numel()).view(maps.shape) % 2).to(maps.dtype)
    return torch.autograd.grad(maps, [layer.weight, images], pulled.contiguous())[0]


def medians(functions: list[Callable[[], object]], repeats: int) -> list[float]:
    """Milliseconds of each, taking turns."""
    return [statistics.median(taken) for taken in milliseconds(dict(enumerate(functions)), repeats).values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {options.threads} threads\n")
    print("| channels | side | stride | dilation | type | layout | own ms | ours ms | own error | ours error |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for channels, side, stride, dilation in LAYERS:
        own = nn.Conv2d(channels, channels, 3, stride, dilation, dilation, channels, bias=False)
        ours = copy.deepcopy(own)
        train_fast_on_cpu(ours)
        for dtype in (torch.float32, torch.bfloat16):
            for name, layout in LAYOUTS.items():
                images = torch.randn(options.batch_size, channels, side, side).bfloat16().float()
                expected = passes(copy.deepcopy(own).double(), images.double().requires_grad_(), torch.float64)
                images = images.contiguous(memory_format=layout).requires_grad_()
                cells = medians([partial(passes, layer, images, dtype) for layer in (own, ours)], options.repeats)
                for layer in (own, ours):
                    error = (passes(layer, images, dtype).double() - expected).norm() / expected.norm()
                    cells.append(float(error))
                kind = str(dtype).removeprefix("torch.")
                print(
                    f"| {channels} | {side} | {stride} | {dilation} | {kind} | {name} "
                    f"| {cells[0]:.1f} | {cells[1]:.1f} | {cells[2]:.0e} | {cells[3]:.0e} |",
                    flush=True,
                )
    model = KASegModel(KASegConfig(output_stride=16, num_labels=7)).train()
    prepared = copy.deepcopy(model)
    train_fast_on_cpu(prepared)
    batch = torch.randn(options.batch_size, 3, 192, 192)

    def step(network: KASegModel, bf16: bool, layout: torch.memory_format) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            maps = network.encoder(batch.contiguous(memory_format=layout))[-1]
        maps.float().mean().backward()

    print("\nForward and backward pass of the encoder, 192 pixels; in training the images lie channels-last.\n")
    print("| type | own, contiguous ms | own, channels-last ms | ours ms | ours / contiguous | ours / channels-last |")
    print("|---|---|---|---|---|---|")
    for bf16 in (False, True):
        turns = [(model, bf16, layout) for layout in LAYOUTS.values()] + [(prepared, bf16, torch.channels_last)]
        found = medians([partial(step, *turn) for turn in turns], options.repeats)
        cells = " | ".join(f"{each:.0f}" for each in found)
        ratios = " | ".join(f"{found[2] / each:.2f}" for each in found[:2])
        print(f"| {'bfloat16' if bf16 else 'float32'} | {cells} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
