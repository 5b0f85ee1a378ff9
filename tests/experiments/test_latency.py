from __future__ import annotations

import time

import torch
from torch import nn

from kaseg.experiments.latency import milliseconds_per_image


class _Sleeper(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seconds, self.shapes = seconds, []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(image.shape))
        time.sleep(self.seconds)
        return image


def test_median_per_model_without_the_warm_up() -> None:
    slow, quick = _Sleeper(0.02), _Sleeper(0.0)
    times = milliseconds_per_image({"slow": slow, "quick": quick}, height=3, width=5, repeats=3)
    assert times["slow"] >= 20.0 and times["quick"] < times["slow"]
    assert slow.shapes == [(1, 3, 3, 5)] * 4
    assert not slow.training
