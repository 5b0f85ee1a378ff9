import numpy as np
import pytest

from kaseg.distillation.losses import HintLoss


def reference(student, teacher, mask):
    student, teacher = student.double().numpy(), teacher.double().numpy()
    squares = []
    for b, y, x in np.ndindex(len(student), *student.shape[2:]):
        if mask[b, y, x]:
            squares += [(s - t) ** 2 for s, t in zip(student[b, :, y, x], teacher[b, :, y, x], strict=True)]
    return np.mean(squares)


def test_matches_the_formula(pair, mask):
    student, teacher = pair(2, 5, 3, 4)
    assert HintLoss()(student, teacher, mask).item() == pytest.approx(reference(student, teacher, mask), rel=1e-5)
