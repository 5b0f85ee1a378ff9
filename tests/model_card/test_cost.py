from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kaseg import KASegConfig, KASegModel
from kaseg.model_card.cost import gflops, parameter_count


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
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1, bias=False), torch.nn.BatchNorm2d(4))
    assert parameter_count(module) == 12 + 8
