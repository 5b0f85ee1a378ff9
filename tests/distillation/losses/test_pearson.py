import numpy as np
import pytest
import torch

from kaseg.distillation.losses import PearsonLoss


def reference(student, teacher, weights=None, eps=1e-4):
    """The formula of the docstring, channel by channel, by numpy in float64."""
    student, teacher = (x.detach().double().numpy().swapaxes(0, 1).reshape(x.shape[1], -1) for x in (student, teacher))
    w = np.ones(student.shape[1]) if weights is None else weights.double().numpy().ravel()
    values = []
    for s, t in zip(student, teacher, strict=True):
        s, t = (x - np.average(x, weights=w) for x in (s, t))
        var_s, var_t, common = (np.average(x, weights=w) for x in (s * s, t * t, s * t))
        if var_t < 1e-20:
            values.append(0.0)
            continue
        r = common / (np.sqrt(var_s + eps**2) * np.sqrt(var_t))
        values.append(var_t / (var_t + eps**2) * (1 - r))
    return np.mean(values)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-5])
@pytest.mark.parametrize("masked", ["no", "bool", "weights"])
def test_matches_the_formula(pair, masked, scale):
    student, teacher = pair(2, 5, 3, 4)
    student, teacher = scale * (student + teacher), (scale * teacher).relu()
    teacher[:, 2] = 0.25  # a channel in which the teacher is constant
    weights = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1))
    mask = {"no": None, "bool": weights > 0.4, "weights": 5 * weights * (weights > 0.4)}[masked]
    expected = reference(student, teacher, mask)
    assert PearsonLoss()(student, teacher, mask).item() == pytest.approx(expected, rel=1e-4)
    in_double = PearsonLoss()(student.double(), teacher.double(), mask)
    assert in_double.dtype == torch.float64
    assert in_double.item() == pytest.approx(expected, rel=1e-9)


def test_is_one_minus_the_correlation_of_numpy_and_half_the_square_of_pkd(pair):
    student, teacher = pair(3, 4, 5, 6)
    student = student + teacher
    s, t = (x.double().transpose(0, 1).flatten(1) for x in (student, teacher))
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(s.numpy(), t.numpy(), strict=True)]
    found = PearsonLoss()(student, teacher).item()
    assert found == pytest.approx(1 - np.mean(correlations), rel=1e-5)
    s, t = ((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True, correction=0) for x in (s, t))
    assert found == pytest.approx(0.5 * (s - t).square().mean().item(), rel=1e-5)


def test_level_and_scale_of_a_channel_do_not_matter_and_opposites_give_two(pair):
    student, teacher = pair(2, 6, 5, 5)
    scale, level = torch.rand(1, 6, 1, 1) + 0.5, torch.randn(1, 6, 1, 1)
    loss = PearsonLoss()
    assert loss(scale * student + level, level - 3 * teacher).item() == pytest.approx(
        loss(student, -teacher).item(), rel=1e-5
    )
    assert loss(-teacher, teacher).item() == pytest.approx(2, rel=1e-5)


def test_a_constant_map_gets_nothing(pair):
    _, teacher = pair(2, 6, 5, 5)
    for constant in (torch.zeros(6), torch.randn(6), teacher.mean((0, 2, 3))):
        student = constant[None, :, None, None].expand_as(teacher)
        assert PearsonLoss()(student, teacher).item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("level", [0.0, 3.0])
def test_gradient_is_bounded_at_constant_maps(pair, level):
    eps, (noise, teacher) = 1e-3, pair(2, 8, 4, 4)
    for scale in (0.0, 1e-12, 1e-6, 1e-3):
        student = (level + scale * noise).double().requires_grad_()
        PearsonLoss(eps=eps)(student, teacher.double()).backward()
        of_channels = student.grad.transpose(0, 1).flatten(1).norm(dim=1)
        assert of_channels.max() <= 1 / (8 * eps * 32**0.5) * (1 + 1e-6)
        assert of_channels.min() > 0


def test_constant_on_either_side_or_both_is_finite(pair):
    _, varied = pair(2, 4, 3, 3)
    constant = torch.full_like(varied, 0.5)
    for s, t in ((constant, constant), (varied, constant), (constant, varied)):
        s, t = s.clone().requires_grad_(), t.clone().requires_grad_()
        loss = PearsonLoss()(s, t)
        loss.backward()
        assert loss.item() == pytest.approx(float((t != 0.5).any()), abs=1e-6)
        assert s.grad.isfinite().all() and t.grad.isfinite().all()
    assert not torch.autograd.grad(PearsonLoss()(s, constant), s)[0].any()
