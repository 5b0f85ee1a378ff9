import copy

import numpy as np
import pytest
import torch

from kaseg.distillation.losses import PearsonLoss, WhitenedLoss


def make_codes(batches: int = 5, channels: int = 6) -> list[torch.Tensor]:
    """Codes as an encoder gives them: correlated, of several scales, far from zero, one channel dead."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(channels, channels, generator=generator) * torch.logspace(-1, 1, channels)[:, None]
    mixing[2] = 0
    codes = []
    for count in range(1, batches + 1):
        noise = torch.randn(count, channels, 5, 7, generator=generator)
        codes.append(torch.einsum("kc,bchw->bkhw", mixing, noise) + torch.arange(channels).view(-1, 1, 1))
    return codes


def reference(codes: list[torch.Tensor], shrinkage: float, eps: float = 1e-4) -> tuple[np.ndarray, np.ndarray]:
    """Mean and whitening matrix of all positions of all codes, by numpy in float64."""
    vectors = np.concatenate([code.double().numpy().swapaxes(0, 1).reshape(code.shape[1], -1) for code in codes], 1)
    covariance = np.cov(vectors, bias=True)
    floor = shrinkage * np.trace(covariance) / len(covariance) + eps**2
    values, vectors_of = np.linalg.eigh(covariance + floor * np.eye(len(covariance)))
    return vectors.mean(1), vectors_of @ np.diag(values**-0.5) @ vectors_of.T


@pytest.mark.parametrize("shrinkage", [1e-3, 0.01, 0.5])
def test_measures_what_numpy_does_over_all_batches(shrinkage):
    codes, loss = make_codes(), WhitenedLoss(6, shrinkage=shrinkage)
    student = torch.randn(5, 6, 5, 7, generator=torch.Generator().manual_seed(1))
    for code in codes:
        loss(student[: len(code)], code)
    mean, whitener = reference(codes, shrinkage)
    np.testing.assert_allclose(loss.mean, mean, rtol=1e-4, atol=1e-4)
    # The dead channel's own scale is 1 / floor^(1/2), which multiplies zeros.
    alive = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(loss.whitener[alive][:, alive], whitener[alive][:, alive], rtol=1e-3, atol=1e-3)
    white = np.einsum("kc,bchw->bkhw", whitener, codes[-1].double().numpy() - mean[:, None, None])
    white[:, 2] = 0
    expected = PearsonLoss()(student.double(), torch.from_numpy(white)).item()
    assert loss.eval()(student, codes[-1]).item() == pytest.approx(expected, rel=1e-5)


def test_what_is_whitened_has_neither_mean_nor_correlations():
    codes, loss = make_codes(), WhitenedLoss(6, shrinkage=1e-6)
    for code in codes:
        loss(code, code)
    white = torch.cat([loss.whiten(code).transpose(0, 1).flatten(1) for code in codes], 1)
    expected = torch.eye(6)
    expected[2, 2] = 0
    torch.testing.assert_close(torch.cov(white, correction=0), expected, atol=0.02, rtol=0)
    torch.testing.assert_close(white.mean(1), torch.zeros(6), atol=1e-3, rtol=0)


def test_is_fixed_after_the_measured_batches_and_in_evaluation():
    codes, loss = make_codes(), WhitenedLoss(6, measured_batches=2)
    before = copy.deepcopy(loss.state_dict())
    loss.eval()(codes[0], codes[0])
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())
    loss.train()
    for code in codes[:2]:
        loss(code, code)
    assert loss.batches == 2 and loss.positions == 105
    measured = copy.deepcopy(loss.state_dict())
    for code in codes[2:]:
        loss(code, code)
    assert all(torch.equal(value, measured[name]) for name, value in loss.state_dict().items())
    resumed = WhitenedLoss(6, measured_batches=2)
    resumed.load_state_dict(measured)
    student = torch.randn(1, 6, 5, 7)
    assert torch.equal(resumed(student, codes[0]), loss(student, codes[0]))


def test_the_gradient_is_the_students_and_bounded_at_constant_maps():
    codes, loss = make_codes(), WhitenedLoss(6, eps=1e-3)
    for level in (0.0, 2.0):
        student = torch.full_like(codes[0], level, requires_grad=True)
        value = loss(student, codes[0])
        value.backward()
        assert value.item() == pytest.approx(5 / 6, rel=1e-3)  # the dead channel does not count
        norms = student.grad.transpose(0, 1).flatten(1).norm(dim=1)
        assert norms.isfinite().all() and 0 < norms.max() <= 1 / (6 * 1e-3 * 35**0.5) * (1 + 1e-4)
    assert not any(buffer.requires_grad for buffer in loss.buffers())


def test_weights_and_masks_are_those_of_the_correlation():
    codes, loss = make_codes(), WhitenedLoss(6)
    loss(codes[1], codes[1])
    student, weights = torch.randn(2, 6, 5, 7), torch.rand(2, 5, 7)
    loss.eval()
    for mask in (weights, weights > 0.5):
        assert torch.equal(loss(student, codes[1], mask), PearsonLoss()(student, loss.whiten(codes[1]), mask))


def test_codes_that_do_not_vary_are_finite():
    loss = WhitenedLoss(4)
    student = torch.randn(2, 4, 3, 3, requires_grad=True)
    value = loss(student, torch.ones(2, 4, 3, 3))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6) and student.grad.isfinite().all()


def test_other_channels_are_named():
    with pytest.raises(ValueError, match="has 6 channels, not 4"):
        WhitenedLoss(4)(make_codes()[0], make_codes()[0])
