from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch

from kaseg.distillation.losses import AdaptationLoss, adaptation


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


def pair(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2)]


@pytest.mark.parametrize(("p", "q"), [(1, 2), (2, 2), (1, 1), (1.5, 3)])
@pytest.mark.parametrize("masked", ["no", "bool", "weights"])
def test_matches_the_formula(p, q, masked):
    student, teacher = pair(2, 5, 3, 4)
    teacher = teacher.relu()
    weights = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1))
    mask = {"no": None, "bool": weights > 0.4, "weights": 5 * weights * (weights > 0.4)}[masked]
    expected = reference(student, teacher, mask, p, q)
    assert AdaptationLoss(p=p, q=q)(student, teacher, mask).item() == pytest.approx(expected, rel=1e-5)
    in_double = AdaptationLoss(p=p, q=q)(student.double(), teacher.double(), mask)
    assert in_double.dtype == torch.float64
    assert in_double.item() == pytest.approx(expected, rel=1e-12)


def test_does_not_depend_on_the_length_of_any_vector():
    student, teacher = pair(2, 6, 5, 5)
    lengths = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(1)) * 10 + 0.5
    loss = AdaptationLoss()
    assert loss(student * lengths, teacher / lengths).item() == pytest.approx(loss(student, teacher).item(), rel=1e-5)
    assert loss(student * lengths, student).item() < 1e-6


def test_largest_value_is_two_over_root_c():
    # All channels alike and of opposite sign is the worst case.
    ones = torch.ones(2, 9, 4, 4)
    assert AdaptationLoss()(ones, -ones).item() == pytest.approx(2 / 3, rel=1e-5)


def test_gradient_is_bounded_at_zero_vectors():
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


def test_masked_positions_do_not_exist():
    student, teacher = pair(2, 4, 3, 3)
    mask = torch.zeros(2, 3, 3, dtype=torch.bool)
    mask[0, 1, 2] = True
    student[1, :, 0, 0] = float("nan")
    student.requires_grad_()
    loss = AdaptationLoss()(student, teacher, mask)
    only = AdaptationLoss()(student[:1, :, 1:2, 2:], teacher[:1, :, 1:2, 2:])
    assert loss.item() == pytest.approx(only.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, student)
    assert torch.equal(gradient.abs().sum(1) > 0, mask)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_empty_mask_gives_zero_loss_and_gradient(dtype):
    student, teacher = pair(2, 4, 3, 3)
    student.requires_grad_()
    loss = AdaptationLoss()(student, teacher, torch.zeros(2, 3, 3, dtype=dtype))
    loss.backward()
    assert loss.item() == 0
    assert not student.grad.any()


@pytest.mark.parametrize(("p", "q"), [(1, 2), (2, 2), (2, 1), (1.5, 3)])
def test_gradcheck(p, q):
    student, teacher = (x.requires_grad_() for x in pair(2, 3, 2, 3, dtype=torch.float64))
    mask = torch.ones(2, 2, 3, dtype=torch.bool)
    mask[0, 1] = False
    assert torch.autograd.gradcheck(lambda s, t: AdaptationLoss(p, q)(s, t, mask), (student, teacher))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_computed_in_float32(dtype):
    student, teacher = (x.to(dtype) for x in pair(2, 8, 5, 5))
    student.requires_grad_()
    loss = AdaptationLoss()(student, teacher)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == AdaptationLoss()(student.float(), teacher.float()).item()
    assert student.grad.dtype == dtype


def test_autocast_changes_nothing():
    student, teacher = pair(2, 8, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        inside = AdaptationLoss()(student, teacher)
    assert inside.dtype == torch.float32
    assert inside.item() == AdaptationLoss()(student, teacher).item()


@pytest.mark.parametrize(
    "layout", [lambda x: x.to(memory_format=torch.channels_last), lambda x: x.mT.contiguous().mT, lambda x: x[:, ::2]]
)
def test_memory_layout_does_not_matter(layout):
    student, teacher = (layout(x) for x in pair(2, 8, 5, 6))
    expected = AdaptationLoss()(student.contiguous(), teacher.contiguous()).item()
    assert AdaptationLoss()(student, teacher).item() == pytest.approx(expected, rel=1e-6)


def test_shape_errors_name_both_shapes():
    student, teacher = pair(2, 8, 5, 5)
    with pytest.raises(ValueError, match=r"\(2, 8, 5, 5\).*\(2, 8, 5, 4\)"):
        AdaptationLoss()(student, teacher[..., :4])
    with pytest.raises(ValueError, match=r"\(8, 5, 5\)"):
        AdaptationLoss()(student[0], teacher[0])
    with pytest.raises(ValueError, match=r"mask.*\(2, 5, 5\).*\(5, 5\)"):
        AdaptationLoss()(student, teacher, torch.ones(5, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="bool.*int64"):
        AdaptationLoss()(student, teacher, torch.ones(2, 5, 5).long())
    with pytest.raises(ValueError, match=r"mask.*\(2, 5, 5\).*\(5, 5\)"):
        AdaptationLoss()(student, teacher, torch.ones(5, 5))


@pytest.mark.parametrize("kwargs", [{"p": 0.5}, {"q": 0.5}, {"eps": 0.0}, {"eps": -1e-4}, {"q": 20.0}])
def test_senseless_arguments_are_refused(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        AdaptationLoss(**kwargs)


def test_examples_in_docstrings():
    result = doctest.testmod(adaptation)
    assert result.attempted > 0
    assert result.failed == 0
