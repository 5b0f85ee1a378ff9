import math

import numpy as np
import pytest
import torch
from torch import nn

from kaseg.distillation.balance import GradientBalance, squared_norms


def test_weights_are_shares_of_the_ratio_of_smoothed_norms() -> None:
    balance = GradientBalance({"adaptation": 0.5, "dist": 2.0}, decay=0.2)
    measured = np.random.default_rng(0).uniform(0.1, 3.0, (6, 3))
    smoothed = np.zeros(3)
    for number, (labels, *terms) in enumerate(measured, 1):
        balance.update(torch.tensor(labels), torch.tensor(terms))
        decay = min(0.2, (number - 1) / (number + 9))
        smoothed = decay * smoothed + (1 - decay) * measured[number - 1]
        found = [float(weight) for weight in balance.weights().values()]
        assert list(balance.weights()) == ["adaptation", "dist"]
        assert found == pytest.approx([0.5 * smoothed[0] / smoothed[1], 2.0 * smoothed[0] / smoothed[2]], rel=1e-5)


@pytest.mark.parametrize(
    ("labels", "term"),
    [
        (0.0, 1.0),
        (1.0, 0.0),
        (0.0, 0.0),
        (math.nan, 1.0),
        (1.0, math.nan),
        (math.inf, 1.0),
        (1.0, math.inf),
        (1.0, 1e-45),
    ],
)
def test_a_gradient_that_says_nothing_changes_nothing(labels: float, term: float) -> None:
    balance = GradientBalance({"a": 1.0, "b": 1.0})
    measure = torch.tensor(labels), torch.tensor([term, 4.0])
    balance.update(*measure)
    assert balance.weights()["a"] == 0  # it was never measured
    balance.update(torch.tensor(2.0), torch.tensor([4.0, 4.0]))
    before = balance.weights()["a"]
    balance.update(*measure)
    assert balance.weights()["a"] == before == 0.5
    assert all(torch.isfinite(weight) for weight in balance.weights().values())


def test_norms_are_those_of_a_backward_pass_and_leave_no_trace() -> None:
    torch.manual_seed(0)
    layer, classifier, adapter = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 5, 1)
    images = torch.randn(2, 3, 8, 8)

    def losses(feature_map: torch.Tensor) -> list[torch.Tensor]:
        return [classifier(feature_map).logsumexp(1).mean(), adapter(feature_map).square().mean(), torch.ones(())]

    feature_map = layer(images)
    values = losses(feature_map)
    found = squared_norms(values, feature_map)
    assert torch.allclose(found, squared_norms(values, feature_map, scale=8.0) / 64)
    assert all(p.grad is None for m in (layer, classifier, adapter) for p in m.parameters())
    values[0].backward(retain_graph=True)  # the graph is still there
    for index in (0, 1):
        leaf = feature_map.detach().double().requires_grad_()
        for module in (classifier, adapter):
            module.double()
        losses(leaf)[index].backward()
        assert found[index].item() == pytest.approx(leaf.grad.square().sum().item(), rel=1e-5)
    assert found[2] == 0


def test_it_is_saved_and_read_as_buffers() -> None:
    balance, other = GradientBalance({"a": 1.0}), GradientBalance({"a": 1.0})
    balance.update(torch.tensor(0.3), torch.tensor([0.7]))
    other.load_state_dict(balance.state_dict())
    assert list(balance.state_dict()) == ["norms", "counts"]
    assert torch.equal(other.weights()["a"], balance.weights()["a"])
