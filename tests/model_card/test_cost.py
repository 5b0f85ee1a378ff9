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


def test_parameters_without_running_statistics() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1, bias=False), torch.nn.BatchNorm2d(4))
    assert parameter_count(module) == 12 + 8
