import numpy as np
import pytest
import torch

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


def test_moving_and_rotating_both_changes_nothing(pair, rotation):
    student, teacher = pair(2, 5, 3, 4)
    move = torch.randn(1, 5, 1, 1)
    moved = HintLoss()(rotation(5, student + move), rotation(5, teacher + move))
    assert moved.item() == pytest.approx(HintLoss()(student, teacher).item(), rel=1e-4)
    assert HintLoss()(3 * student, 3 * teacher).item() == pytest.approx(
        9 * HintLoss()(student, teacher).item(), rel=1e-5
    )
