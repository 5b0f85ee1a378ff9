from __future__ import annotations

import numpy as np
import pytest
import torch

from kaseg.distillation.losses import DistLoss
from kaseg.distillation.losses.dist import _correlation


def reference(student, teacher, mask, beta, gamma):
    matrices = []
    for logits in (student, teacher):
        exponentials = np.exp(logits.double().numpy()).transpose(0, 2, 3, 1)[mask.numpy()]
        matrices.append(exponentials / exponentials.sum(axis=1, keepdims=True))
    rows = [np.corrcoef(p, q)[0, 1] for p, q in zip(*matrices, strict=True)]
    columns = [np.corrcoef(p, q)[0, 1] for p, q in zip(matrices[0].T, matrices[1].T, strict=True)]
    return beta * (1 - np.mean(rows)) + gamma * (1 - np.mean(columns))


@pytest.mark.parametrize("beta, gamma", [(1.0, 1.0), (2.0, 0.0), (0.0, 0.5)])
@pytest.mark.parametrize("masked", [False, True])
def test_matches_the_formula(pair, beta, gamma, masked):
    student, teacher = pair(2, 5, 3, 4)
    mask = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1)) > (0.4 if masked else -1)
    expected = reference(student, teacher, mask, beta, gamma)
    loss = DistLoss(beta, gamma)(student, teacher, mask if masked else None)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dim", [0, 1])
def test_shift_and_scale_of_what_is_correlated_change_nothing(dim):
    first, second = torch.rand(2, 6, 5, dtype=torch.float64)
    scale, shift = torch.rand(2, 6, 5, dtype=torch.float64).narrow(dim + 1, 0, 1) + 0.1
    ones = torch.ones_like(first)
    expected = _correlation(first, second, ones, dim)
    torch.testing.assert_close(_correlation(scale * first + shift, second, ones, dim), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        _correlation(first, scale * first + shift, ones, dim), torch.ones_like(expected), rtol=0, atol=1e-5
    )


def test_a_number_added_to_all_logits_of_a_position_changes_nothing(pair):
    student, teacher = pair(2, 5, 3, 4)
    shift = 10 * pair(2, 1, 3, 4)[1]
    assert DistLoss()(student + shift, teacher).item() == pytest.approx(DistLoss()(student, teacher).item(), rel=1e-4)


def test_intra_runs_over_all_that_is_seen_at_once(pair):
    """What the docstring says of micro-batches: unlike the other losses, the mean over parts is another number."""
    student, teacher = pair(2, 5, 3, 4)
    whole = [DistLoss(*weights)(student, teacher).item() for weights in ((1, 0), (0, 1))]
    parts = [
        np.mean([DistLoss(*weights)(student[b : b + 1], teacher[b : b + 1]).item() for b in range(2)])
        for weights in ((1, 0), (0, 1))
    ]
    assert parts[0] == pytest.approx(whole[0], rel=1e-5)
    assert abs(parts[1] - whole[1]) > 1e-3
