"""What all rival losses have in common; each one's formula and invariances are in its own file."""

from __future__ import annotations

import doctest
import importlib

import pytest
import torch

from kaseg.distillation import losses

RIVALS = {
    "attention_transfer": losses.AttentionTransferLoss,
    "channel_wise": losses.ChannelWiseLoss,
    "dist": losses.DistLoss,
    "hint": losses.HintLoss,
    "intra_class": losses.IntraClassLoss,
    "knowledge_distillation": losses.KnowledgeDistillationLoss,
    "pairwise": losses.PairwiseLoss,
}
every = pytest.mark.parametrize("name", RIVALS)
masked = pytest.mark.parametrize("name", [name for name in RIVALS if name != "intra_class"])


def _arguments(name: str, shape=(2, 6, 8, 8)) -> tuple:
    if name != "intra_class":
        return ()
    return (torch.randint(0, 3, (shape[0], *shape[2:]), generator=torch.Generator().manual_seed(1)),)


def _gradient(name, student, teacher, *extra):
    student = student.detach().requires_grad_()
    loss = RIVALS[name]()(student, teacher, *extra)
    return loss.detach(), torch.autograd.grad(loss, student)[0]


@every
def test_the_teachers_own_map_is_the_best(pair, name):
    student, teacher = pair(2, 6, 8, 8)
    extra = _arguments(name)
    best, gradient = _gradient(name, teacher, teacher, *extra)
    worse, other = _gradient(name, student, teacher, *extra)
    assert abs(best.item()) < 1e-5 < worse.item()
    assert gradient.norm() < 1e-3 * other.norm()


@every
def test_gradient(pair, name):
    student, teacher = (x.requires_grad_() for x in pair(2, 3, 4, 4, dtype=torch.float64))
    extra = _arguments(name, (2, 3, 4, 4))
    assert torch.autograd.gradcheck(lambda s, t: RIVALS[name]()(s, t, *extra), (student, teacher))


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_computed_in_float32(pair, name, dtype):
    student, teacher = (x.to(dtype) for x in pair(2, 6, 8, 8))
    extra = _arguments(name)
    loss, gradient = _gradient(name, student, teacher, *extra)
    expected, _ = _gradient(name, student.float(), teacher.float(), *extra)
    assert loss.dtype == torch.float32 and gradient.dtype == dtype and torch.equal(loss, expected)


@every
def test_autocast_changes_nothing(pair, name):
    student, teacher = pair(2, 6, 8, 8)
    expected, expected_gradient = _gradient(name, student, teacher, *_arguments(name))
    student.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = RIVALS[name]()(student, teacher, *_arguments(name))
    assert torch.equal(loss, expected)
    assert torch.equal(torch.autograd.grad(loss, student)[0], expected_gradient)


@every
def test_zeros_are_harmless(pair, name):
    _, teacher = pair(2, 6, 8, 8)
    for student in (torch.zeros_like(teacher), torch.full_like(teacher, 1e-20)):
        for other in (teacher, torch.zeros_like(teacher)):
            loss, gradient = _gradient(name, student, other, *_arguments(name))
            assert loss.isfinite() and gradient.isfinite().all()


@masked
def test_masked_positions_do_not_exist(pair, name):
    student, teacher = pair(2, 6, 8, 8)
    mask = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.5
    expected, _ = _gradient(name, student, teacher, mask)
    student, teacher = (x.masked_fill(~mask[:, None], float("nan")) for x in (student, teacher))
    loss, gradient = _gradient(name, student, teacher, mask)
    assert torch.equal(loss, expected)
    assert gradient.isfinite().all() and not gradient.masked_select(~mask[:, None]).any()


@masked
def test_a_mask_of_everything_is_no_mask_and_one_of_nothing_gives_zero(pair, name):
    student, teacher = pair(2, 6, 8, 8)
    mask = torch.ones(2, 8, 8, dtype=torch.bool)
    expected, _ = _gradient(name, student, teacher)
    assert _gradient(name, student, teacher, mask)[0].item() == pytest.approx(expected.item(), rel=1e-6)
    loss, gradient = _gradient(name, student, teacher, ~mask)
    assert loss.item() == 0 and not gradient.any()


@every
def test_shape_errors_name_both_shapes(pair, name):
    student, teacher = pair(2, 6, 8, 8)
    with pytest.raises(ValueError, match=r"\(2, 6, 8, 8\).*\(1, 6, 8, 8\)"):
        RIVALS[name]()(student, teacher[:1], *_arguments(name))
    if name != "intra_class":
        with pytest.raises(ValueError, match="bool.*float32"):
            RIVALS[name]()(student, teacher, torch.ones(2, 8, 8))


@every
def test_examples_in_docstrings(name):
    result = doctest.testmod(importlib.import_module(f"kaseg.distillation.losses.{name}"))
    assert result.attempted > 0 and result.failed == 0
