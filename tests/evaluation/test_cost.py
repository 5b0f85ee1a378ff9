from __future__ import annotations

import time

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kaseg import KASegConfig, KASegModel
from kaseg.evaluation.cost import gflops, milliseconds, milliseconds_per_image, parameter_count


@pytest.mark.parametrize("head", ["student", "deeplabv3plus"])
def test_shapes_alone_cost_what_a_real_pass_costs(head: str) -> None:
    model = KASegModel(KASegConfig(backbone="mobilenetv2_035", head=head, num_labels=5)).train()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, 65, 97))
    assert gflops(model.train(), 65, 97) == counter.get_total_flops() / 1e9
    assert model.training and {p.device.type for p in model.parameters()} == {"cpu"}


def test_an_architecture_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And another one again, even where the weights have the same shapes."""
    passes = []
    forward = KASegModel.forward
    monkeypatch.setattr(KASegModel, "forward", lambda self, *args: passes.append(self) or forward(self, *args))

    def cost(**fields: object) -> float:
        return gflops(KASegModel(KASegConfig(**{"backbone": "mobilenetv2_035", "num_labels": 7, **fields})), 33, 49)

    first = cost()
    assert cost() == first and len(passes) == 1
    assert cost(output_stride=8) > cost(pad_to_stride=True) > first and len(passes) == 3


def test_parameters_without_running_statistics() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
    assert parameter_count(module) == 12 + 8


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
