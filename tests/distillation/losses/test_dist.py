import numpy as np
import pytest

from kaseg.distillation.losses import DistLoss


def reference(student, teacher, mask, beta, gamma):
    matrices = []
    for logits in (student, teacher):
        exponentials = np.exp(logits.double().numpy()).transpose(0, 2, 3, 1)[mask.numpy()]
        matrices.append(exponentials / exponentials.sum(axis=1, keepdims=True))
    rows = [np.corrcoef(p, q)[0, 1] for p, q in zip(*matrices, strict=True)]
    columns = [np.corrcoef(p, q)[0, 1] for p, q in zip(matrices[0].T, matrices[1].T, strict=True)]
    return beta * (1 - np.mean(rows)) + gamma * (1 - np.mean(columns))


@pytest.mark.parametrize("beta, gamma", [(1.0, 1.0), (2.0, 0.0), (0.0, 0.5)])
def test_matches_the_formula(pair, beta, gamma, mask):
    student, teacher = pair(2, 5, 3, 4)
    expected = reference(student, teacher, mask, beta, gamma)
    assert DistLoss(beta, gamma)(student, teacher, mask).item() == pytest.approx(expected, rel=1e-4)


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
