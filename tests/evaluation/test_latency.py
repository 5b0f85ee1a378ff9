from __future__ import annotations

import time

import torch
from torch import nn

from kaseg.evaluation.latency import milliseconds, milliseconds_per_image


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
    assert slow.shapes == [(1, 3, 3, 5)] * 6  # three to warm up
    assert not slow.training


def test_runs_take_turns_and_warm_ups_do_not_count() -> None:
    order: list[str] = []

    def slow() -> None:
        order.append("slow")
        time.sleep(0.02)

    times = milliseconds({"slow": slow, "quick": lambda: order.append("quick")}, repeats=2)
    assert order == ["slow", "quick"] * 5
    assert len(times["slow"]) == len(times["quick"]) == 2
    assert min(times["slow"]) >= 20 > max(times["quick"])
