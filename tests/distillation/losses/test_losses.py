"""What all losses between maps have in common; each one's formula is in its own file."""

import doctest
import importlib
import re
from collections.abc import Callable

import pytest
import torch

from kaseg.distillation import losses
from kaseg.distillation.losses.base import MapLoss

LOSSES: dict[str, type[MapLoss]] = {
    "adaptation": losses.AdaptationLoss,
    "affinity": losses.AffinityLoss,
    "attention_transfer": losses.AttentionTransferLoss,
    "channel_wise": losses.ChannelWiseLoss,
    "dist": losses.DistLoss,
    "hint": losses.HintLoss,
    "intra_class": losses.IntraClassLoss,
    "knowledge_distillation": losses.KnowledgeDistillationLoss,
    "pairwise": losses.PairwiseLoss,
    "pearson": losses.PearsonLoss,
    "whitened": losses.WhitenedLoss,
}
every = pytest.mark.parametrize("name", LOSSES)
# A whitened code is another map, and all of it is measured.
unwhitened = pytest.mark.parametrize("name", [name for name in LOSSES if name != "whitened"])
masked = pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("intra_class", "whitened")])
# Few channels and many, which the affinity loss computes in two ways.
shapes = pytest.mark.parametrize("shape", [(2, 6, 8, 8), (2, 9, 4, 5)], ids=["narrow", "wide"])

GENERATOR = torch.Generator().manual_seed(3)
MOVE, POSITION = torch.randn(1, 5, 1, 1, generator=GENERATOR), 10 * torch.randn(2, 1, 3, 4, generator=GENERATOR)
CHANNEL, SCALE = 10 * torch.randn(2, 5, 1, 1, generator=GENERATOR), torch.tensor([0.3, 7.0]).view(2, 1, 1, 1)
# Changes of a student's and a teacher's map that change nothing, and to which precision.
UNSEEN: dict[str, tuple[Callable, float]] = {
    "attention_transfer": (lambda s, t, rotate: (rotate(5, s * SCALE), t / SCALE), 1e-4),
    "channel_wise": (lambda s, t, rotate: (s + CHANNEL, t - CHANNEL), 1e-3),
    "dist": (lambda s, t, rotate: (s + POSITION, t), 1e-4),
    "hint": (lambda s, t, rotate: (rotate(5, s + MOVE), rotate(5, t + MOVE)), 1e-4),
    "knowledge_distillation": (lambda s, t, rotate: (s + POSITION, t - POSITION), 1e-3),
}


def _build(name: str, channels: int) -> MapLoss:
    return losses.WhitenedLoss(channels) if name == "whitened" else LOSSES[name]()


def _extra(name: str, shape: tuple[int, ...] = (2, 6, 8, 8)) -> tuple[torch.Tensor, ...]:
    """Labels for the loss that takes them."""
    if name != "intra_class":
        return ()
    return (torch.randint(0, 3, (shape[0], *shape[2:]), generator=torch.Generator().manual_seed(1)),)


def _gradient(name, student, teacher, *extra):
    student = student.detach().requires_grad_()
    loss = _build(name, student.shape[1])(student, teacher, *extra)
    return loss.detach(), torch.autograd.grad(loss, student)[0]


@unwhitened
def test_the_teachers_own_map_is_the_best(pair, name):
    student, teacher = pair(2, 6, 8, 8)
    best, gradient = _gradient(name, teacher, teacher, *_extra(name))
    worse, other = _gradient(name, student, teacher, *_extra(name))
    assert abs(best.item()) < 1e-5 < worse.item()
    assert gradient.norm() < 1e-3 * other.norm()


@pytest.mark.parametrize("name", UNSEEN)
def test_what_a_loss_does_not_see(pair, rotation, name):
    student, teacher = pair(2, 5, 3, 4)
    change, precision = UNSEEN[name]
    changed = LOSSES[name]()(*change(student, teacher, rotation))
    assert changed.item() == pytest.approx(LOSSES[name]()(student, teacher).item(), rel=precision)


@every
def test_gradient(pair, name):
    shape = (2, 3, 4, 4)
    student, teacher = (x.requires_grad_() for x in pair(*shape, dtype=torch.float64))
    loss = _build(name, 3).eval()
    masks = (torch.rand(2, 4, 4) > 0.3,) if name != "intra_class" else ()
    for extra in {_extra(name, shape), masks}:
        if extra or name != "intra_class":
            assert torch.autograd.gradcheck(lambda s, t, e=extra: loss(s, t, *e), (student, teacher), fast_mode=True)


@every
@shapes
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_and_autocast_are_computed_in_float32(pair, name, shape, dtype):
    student, teacher = (x.to(dtype) for x in pair(*shape))
    extra = _extra(name, shape)
    expected, expected_gradient = _gradient(name, student.float(), teacher.float(), *extra)
    loss, gradient = _gradient(name, student, teacher, *extra)
    assert loss.dtype == torch.float32 and gradient.dtype == dtype and torch.equal(loss, expected)
    leaf = student.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        inside = _build(name, shape[1])(leaf, teacher.float(), *extra)
    with torch.autocast("cpu", torch.bfloat16, enabled=name == "affinity"):  # which has a backward pass of its own
        (gradient,) = torch.autograd.grad(inside, leaf)
    assert torch.equal(inside, expected) and torch.equal(gradient, expected_gradient)
    assert _gradient(name, student.double(), teacher.double(), *extra)[0].dtype == torch.float64


@every
@shapes
@pytest.mark.parametrize(
    "layout", [lambda x: x.to(memory_format=torch.channels_last), lambda x: x.mT.contiguous().mT, lambda x: x.flip(0)]
)
def test_memory_layout_does_not_matter(pair, name, shape, layout):
    student, teacher = (layout(x) for x in pair(*shape))
    loss, gradient = _gradient(name, student, teacher, *_extra(name, shape))
    expected, wanted = _gradient(name, student.contiguous(), teacher.contiguous(), *_extra(name, shape))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-7)


@every
def test_zeros_are_harmless(pair, name):
    _, teacher = pair(2, 6, 8, 8)
    for student in (torch.zeros_like(teacher), torch.full_like(teacher, 1e-20)):
        for other in (teacher, torch.zeros_like(teacher)):
            loss, gradient = _gradient(name, student, other, *_extra(name))
            assert loss.isfinite() and gradient.isfinite().all()


@masked
@shapes
def test_masked_positions_do_not_exist(pair, name, shape):
    student, teacher = pair(*shape)
    mask = torch.rand(shape[0], *shape[2:], generator=torch.Generator().manual_seed(1)) > 0.5
    expected, _ = _gradient(name, student, teacher, mask)
    student, teacher = (x.masked_fill(~mask[:, None], float("nan")) for x in (student, teacher))
    loss, gradient = _gradient(name, student, teacher, mask)
    assert torch.equal(loss, expected)
    assert gradient.isfinite().all() and not gradient.masked_select(~mask[:, None]).any()
    if LOSSES[name].takes_weights:
        assert _gradient(name, student, teacher, mask.float())[0].item() == pytest.approx(expected.item(), rel=1e-6)


@masked
def test_a_mask_of_everything_is_no_mask_and_one_of_nothing_gives_zero(pair, name):
    student, teacher = pair(2, 6, 8, 8)
    expected, _ = _gradient(name, student, teacher)
    for dtype in (torch.bool, torch.float32) if LOSSES[name].takes_weights else (torch.bool,):
        whole = torch.ones(2, 8, 8, dtype=dtype)
        assert _gradient(name, student, teacher, whole)[0].item() == pytest.approx(expected.item(), rel=1e-6)
        loss, gradient = _gradient(name, student, teacher, torch.zeros_like(whole))
        assert loss.item() == 0 and not gradient.any()


@masked
def test_an_image_of_void_contributes_nothing_to_a_mean_over_images(pair, name):
    student, teacher = pair(2, 5, 4, 4)
    mask = torch.ones(2, 4, 4, dtype=torch.bool)
    mask[1] = False
    only, expected = LOSSES[name]()(student[:1], teacher[:1]), LOSSES[name]()(student, teacher, mask)
    assert expected.item() == pytest.approx(only.item() / (2 if LOSSES[name].per_image else 1), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("adaptation", {"p": 0.5}, "p and q must be at least 1, got p=0.5"),
        ("adaptation", {"q": 0.5}, "got p=1.0 and q=0.5"),
        *(("adaptation", s, "eps must be positive") for s in ({"eps": 0.0}, {"eps": -1e-4}, {"q": 20.0})),
        ("channel_wise", {"temperature": -1.0}, "temperature"),
        ("dist", {"gamma": -1.0}, "gamma"),
        ("knowledge_distillation", {"temperature": 0.0}, "temperature"),
        ("pairwise", {"nodes": 1}, "nodes"),
        ("pairwise", {"eps": 0.0}, "eps"),
        *(("pearson", {"eps": eps}, "eps must be positive") for eps in (0.0, -1.0, 1e-30)),
        ("whitened", {"channels": 0}, "channels and measured_batches must be at least 1, got 0"),
        ("whitened", {"channels": 3, "measured_batches": 0}, "must be at least 1, got 3 and 0"),
        ("whitened", {"channels": 3, "shrinkage": 0.0}, "shrinkage must be positive.* got 0.0"),
        ("whitened", {"channels": 3, "eps": 0.0}, "eps must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        LOSSES[name](**settings)


@every
def test_shape_errors_name_both_shapes(pair, name):
    student, teacher = pair(2, 6, 8, 8)
    loss, extra = _build(name, 6), _extra(name)
    with pytest.raises(ValueError, match=r"\(2, 6, 8, 8\).*\(1, 6, 8, 8\)"):
        loss(student, teacher[:1], *extra)
    if name != "pairwise":  # which pools maps of any size
        for other in (teacher[..., :7], teacher[..., :7, :], *([teacher[:, :5]] if loss.same_channels else [])):
            with pytest.raises(ValueError, match=rf"\(2, 6, 8, 8\).*{re.escape(str(tuple(other.shape)))}"):
                loss(student, other, *extra)
        with pytest.raises(ValueError, match=r"\(6, 8, 8\)"):
            loss(student[0], teacher[0], *extra)
    if name != "intra_class":
        with pytest.raises(ValueError, match=r"mask.*bool.*int64"):
            loss(student, teacher, torch.ones(2, 8, 8).long())
        with pytest.raises(ValueError, match=r"mask.*\(2, 8, 8\).*\(8, 8\)"):
            loss(student, teacher, torch.ones(8, 8, dtype=torch.bool))
        if not loss.takes_weights:
            with pytest.raises(ValueError, match="bool.*float32"):
                loss(student, teacher, torch.ones(2, 8, 8))


@every
def test_examples_in_docstrings(name):
    result = doctest.testmod(importlib.import_module(f"kaseg.distillation.losses.{name}"))
    assert result.attempted > 0 and result.failed == 0


def test_settings_are_shown():
    assert repr(losses.AdaptationLoss(p=2.0)) == "AdaptationLoss(p=2.0, q=2.0, eps=0.0001)"
    assert repr(losses.HintLoss()) == "HintLoss()"
