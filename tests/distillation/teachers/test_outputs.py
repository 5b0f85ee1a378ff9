import numpy as np
import torch

from kaseg.distillation.teachers.outputs import class_scores_from_queries


def test_against_the_formula() -> None:
    """S_c(x) = sum_q softmax(class_q)_c sigmoid(mask_q(x)), by hand in float64."""
    classes, masks = torch.randn(2, 4, 6), torch.randn(2, 4, 3, 5)
    got = class_scores_from_queries(classes, masks)
    c, m = classes.double().numpy(), masks.double().numpy()
    for b in range(2):
        for label in range(5):
            for y in range(3):
                for x in range(5):
                    score = sum(
                        np.exp(c[b, q, label]) / np.exp(c[b, q]).sum() / (1 + np.exp(-m[b, q, y, x])) for q in range(4)
                    )
                    np.testing.assert_allclose(got[b, label, y, x].item(), np.log(score), rtol=1e-5)


def test_a_class_that_no_query_wants_is_finite() -> None:
    classes = torch.zeros(1, 1, 3)
    classes[..., 0] = -1e9
    got = class_scores_from_queries(classes, torch.zeros(1, 1, 2, 2))
    assert got.isfinite().all() and (got[:, 0] < -80).all()


def test_autocast_changes_nothing() -> None:
    """Scores below 6e-8 vanish in float16, and neighbors are one number in bfloat16."""
    classes, masks = 8 * torch.randn(1, 4, 6), 8 * torch.randn(1, 4, 3, 5)
    expected = class_scores_from_queries(classes, masks)
    with torch.autocast("cpu", torch.bfloat16):
        got = class_scores_from_queries(classes, masks)
    assert got.dtype == torch.float32 and torch.equal(got, expected)
