"""What a model costs: parameters, operations and time; and the machine that this was measured on."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kaseg.best_effort import best_effort
from kaseg.encoders import pass_of_shapes

K = TypeVar("K", bound=Hashable)

_COUNTED: dict[tuple[str, ...], float] = {}
_WARM_UPS = 3
# Long enough for the threads of the last engine to stop spinning.
_PAUSE = 0.01


def describe_cost(model: Any) -> dict[str, Any]:
    """Gives `parameters` and `gflops_513x513` of a model; GFLOPs that cannot be counted are `None`."""
    cost = None
    with best_effort("counting the model's operations (GFLOPs)"):
        cost = round(gflops(model), 3)
    return {"parameters": parameter_count(model), "gflops_513x513": cost}


def gflops(model: Any, height: int = 513, width: int = 513) -> float:
    """Counts 2 x multiply-adds of convolutions and matrix products for one image, in 10^9.

    Only shapes go through the network, whatever device it is on, once per architecture and size in a process.
    """
    # The modules with their channels, strides and dilations; the config holds what no module shows, such as padding.
    architecture = (repr(model), str(getattr(model, "config", "")), f"{height}x{width}")
    if architecture not in _COUNTED:
        with FlopCounterMode(display=False) as counter:
            pass_of_shapes(model, (1, getattr(model.config, "num_channels", 3), height, width))
        _COUNTED[architecture] = counter.get_total_flops() / 1e9
    return _COUNTED[architecture]


def parameter_count(model: nn.Module) -> int:
    """Number of parameters, BatchNorm's included, its running statistics not."""
    return sum(parameter.numel() for parameter in model.parameters())


def in_words(results: Mapping[str, Any]) -> str:
    """Names parameters and operations of a model, as `results.json` holds them."""
    return f"{millions(results['parameters'])} M parameters, {billions(results['gflops_513x513'])} GFLOPs"


def millions(count: int) -> str:
    """Formats a number of parameters in millions."""
    return f"{count / 1e6:.2f}"


def billions(cost: float | None) -> str:
    """Formats GFLOPs, as a dash where they could not be counted."""
    return "–" if cost is None else f"{cost:.2f}"


def hardware() -> str:
    """Names the GPUs of this machine, or else its processor."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return cpu()


def cpu() -> str:
    """Names the processor and how many of its threads torch takes."""
    return f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def milliseconds(
    runs: Mapping[K, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[K, list[float]]:
    """Times every run, by name, `repeats` times after three to warm up; they take turns within each repeat, so that a
    machine that slows down slows all of them."""
    times: dict[K, list[float]] = {name: [] for name in runs}
    for repeat in range(-_WARM_UPS, repeats):
        for name, run in runs.items():
            time.sleep(_PAUSE)
            start = clock()
            run()
            if repeat >= 0:
                times[name].append(1000 * (clock() - start))
    return times


@torch.inference_mode()
def milliseconds_per_image(
    models: Mapping[str, nn.Module], height: int, width: int, repeats: int = 10
) -> dict[str, float]:
    """Takes the median time of a forward pass of one (1, 3, height, width) image for every model, by [`milliseconds`].

    Weights, images and clock are on the models' own device.
    """
    runs = {}
    for name, model in models.items():
        weight = next(model.eval().parameters())
        image = torch.zeros(1, 3, height, width, device=weight.device, dtype=weight.dtype)
        runs[name] = partial(_forward, model, image)
    return {name: statistics.median(values) for name, values in milliseconds(runs, repeats).items()}


def _forward(model: nn.Module, image: torch.Tensor) -> None:
    model(image)
    if image.device.type == "cuda":
        torch.cuda.synchronize(image.device)
