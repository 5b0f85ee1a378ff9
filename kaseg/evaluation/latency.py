"""How long a network takes on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import TypeVar

import torch
from torch import nn

K = TypeVar("K", bound=Hashable)

_WARM_UPS = 3
# Long enough for the threads of the last engine to stop spinning.
_PAUSE = 0.01


def milliseconds(runs: Mapping[K, Callable[[], object]], repeats: int) -> dict[K, list[float]]:
    """Times every run; they take turns within each repeat, so that a machine that slows down slows all of them.

    Args:
        runs: What to time, by name.
        repeats: How often; three more to warm up are not counted.
    """
    times: dict[K, list[float]] = {name: [] for name in runs}
    for repeat in range(-_WARM_UPS, repeats):
        for name, run in runs.items():
            time.sleep(_PAUSE)
            start = time.perf_counter()
            run()
            if repeat >= 0:
                times[name].append(1000 * (time.perf_counter() - start))
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
