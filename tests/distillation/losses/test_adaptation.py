import numpy as np
import pytest
import torch

from kaseg.distillation.losses import AdaptationLoss


def reference(student, teacher, mask=None, p=1.0, q=2.0, eps=1e-4):
    """The formula of the docstring, position by position."""
    student, teacher = student.detach().double().numpy(), teacher.detach().double().numpy()
    batch, channels, height, width = student.shape
    total, count = 0.0, 0
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                weight = 1.0 if mask is None else float(mask[b, y, x])
                s, t = student[b, :, y, x], teacher[b, :, y, x]
                s = s / (np.sum(np.abs(s) ** q) + eps**q) ** (1 / q)
                t = t / (np.sum(np.abs(t) ** q) + eps**q) ** (1 / q)
                total += weight * np.sum(np.abs(s - t) ** p)
                count += weight * channels
    return total / count


@pytest.mark.parametrize(("p", "q"), [(1, 2), (2, 2), (1, 1), (1.5, 3)])
@pytest.mark.parametrize("masked", ["no", "bool", "weights"])
def test_matches_the_formula(pair, p, q, masked):
    student, teacher = pair(2, 5, 3, 4)
    teacher = teacher.relu()
    weights = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1))
    mask = {"no": None, "bool": weights > 0.4, "weights": 5 * weights * (weights > 0.4)}[masked]
    expected = reference(student, teacher, mask, p, q)
    assert AdaptationLoss(p=p, q=q)(student, teacher, mask).item() == pytest.approx(expected, rel=1e-5)
    in_double = AdaptationLoss(p=p, q=q)(student.double(), teacher.double(), mask)
    assert in_double.dtype == torch.float64
    assert in_double.item() == pytest.approx(expected, rel=1e-12)


def test_does_not_depend_on_the_length_of_any_vector(pair):
    student, teacher = pair(2, 6, 5, 5)
    lengths = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(1)) * 10 + 0.5
    loss = AdaptationLoss()
    assert loss(student * lengths, teacher / lengths).item() == pytest.approx(loss(student, teacher).item(), rel=1e-5)
    assert loss(student * lengths, student).item() < 1e-6


def test_largest_value_is_two_over_root_c():
    # All channels alike and of opposite sign is the worst case.
    ones = torch.ones(2, 9, 4, 4)
    assert AdaptationLoss()(ones, -ones).item() == pytest.approx(2 / 3, rel=1e-5)


def test_gradient_is_bounded_at_zero_vectors(pair):
    eps, (_, teacher) = 1e-3, pair(2, 8, 4, 4)
    for scale in (0.0, 1e-12, 1e-6):
        student = (scale * torch.ones(2, 8, 4, 4)).requires_grad_()
        AdaptationLoss(eps=eps)(student, teacher).backward()
        # |d loss / d(x / n(x))| is at most sqrt(c) / (B*m*c) at a position; the Jacobian of x / n(x) at most 1 / eps.
        assert student.grad.norm(dim=1).max() <= 8**0.5 / student.numel() / eps * (1 + 1e-5)
        assert student.grad.abs().max() > 0


def test_zero_on_both_sides_is_zero():
    student = torch.zeros(1, 4, 3, 3, requires_grad=True)
    for q in (1, 1.5, 2, 3):
        loss = AdaptationLoss(q=q)(student, torch.zeros(1, 4, 3, 3))
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.item() == 0
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize(("p", "q"), [(1, 2), (2, 2), (2, 1), (1.5, 3)])
def test_gradcheck(pair, p, q):
    student, teacher = (x.requires_grad_() for x in pair(2, 3, 2, 3, dtype=torch.float64))
    mask = torch.ones(2, 2, 3, dtype=torch.bool)
    mask[0, 1] = False
    assert torch.autograd.gradcheck(lambda s, t: AdaptationLoss(p, q)(s, t, mask), (student, teacher))
