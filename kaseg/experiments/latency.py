"""How long a model takes for one image on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import torch
from torch import nn


@torch.inference_mode()
def milliseconds_per_image(
    models: Mapping[str, nn.Module], height: int, width: int, repeats: int = 10
) -> dict[str, float]:
    """Median time of a forward pass of one (1, 3, height, width) image for every model, measured in turn.

    The models alternate within each repeat, so that a machine that slows down slows all of them. A warm-up pass of each
    is not counted. Weights, images and clock are on the models' own device.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    for repeat in range(repeats + 1):
        for name, model in models.items():
            model.eval()
            weight = next(model.parameters())
            device = weight.device
            image = torch.zeros(1, 3, height, width, device=device, dtype=weight.dtype)
            _synchronize(device)
            start = time.perf_counter()
            model(image)
            _synchronize(device)
            if repeat > 0:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
