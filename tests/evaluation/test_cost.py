import time

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kaseg import KASegConfig, KASegModel
from kaseg.evaluation.cost import gflops, milliseconds, milliseconds_per_image, parameter_count


@pytest.mark.parametrize("head", ["student", "deeplabv3plus"])
def test_shapes_alone_cost_what_a_real_pass_costs(head: str) -> None:
    model = KASegModel(KASegConfig(backbone="test_resnet", head=head, num_labels=5)).train()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, 65, 97))
    assert gflops(model.train(), 65, 97) == counter.get_total_flops() / 1e9
    assert model.training and {p.device.type for p in model.parameters()} == {"cpu"}


def test_an_architecture_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And another one again, even where the weights have the same shapes."""
    passes = []
    forward = KASegModel.forward
    monkeypatch.setattr(KASegModel, "forward", lambda self, *args: passes.append(self) or forward(self, *args))

    def cost(height: int = 33, **fields: object) -> float:
        return gflops(KASegModel(KASegConfig(**{"backbone": "test_resnet", "num_labels": 7, **fields})), height, 49)

    first = cost()
    assert cost() == first and len(passes) == 1
    assert cost(output_stride=8) > cost(pad_to_stride=True) > first and len(passes) == 3
    assert cost(65) > first and len(passes) == 4


def test_parameters_without_running_statistics() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
    assert parameter_count(module) == 12 + 8


class _Sleeper(nn.Module):
    """Takes so many seconds, and ten times as many in its last pass."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seconds, self.shapes = seconds, []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(image.shape))
        time.sleep(self.seconds * (10 if len(self.shapes) == 6 else 1))
        return image


def test_median_per_model_without_the_warm_up() -> None:
    slow, quick = _Sleeper(0.02), _Sleeper(0.0)
    times = milliseconds_per_image({"slow": slow, "quick": quick}, height=3, width=5, repeats=3)
    assert 20.0 <= times["slow"] < 200.0 and times["quick"] < times["slow"]
    assert slow.shapes == [(1, 3, 3, 5)] * 6  # three to warm up
    assert not slow.training


def test_runs_take_turns_and_neither_warm_ups_nor_pauses_count(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    clock = [0.0]

    def run(name: str, seconds: float) -> None:
        order.append(name)
        clock[0] += seconds

    monkeypatch.setattr("time.sleep", lambda seconds: run("pause", seconds))
    runs = {"slow": lambda: run("slow", 0.25), "quick": lambda: run("quick", 0.125)}
    times = milliseconds(runs, repeats=2, clock=lambda: clock[0])
    assert order == ["pause", "slow", "pause", "quick"] * 5
    assert times["slow"] == pytest.approx([250, 250]) and times["quick"] == pytest.approx([125, 125])
