"""Tests of kaseg.distillation.correction."""

import numpy as np
import pytest
import torch

from kaseg.distillation.correction import corrected_logits


@pytest.mark.parametrize("classes", [None, [1, 3, 4, 0, 2], [7, 3, 0, 9, 5]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_as_in_a_loop_over_positions(classes: list[int] | None, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 6, 7, generator=generator).to(dtype)
    labels = torch.randint(0, 6, (2, 6, 7), generator=generator)
    labels[labels == 5] = 255
    before = logits.clone()
    found = corrected_logits(logits, labels, classes)
    expected = logits.numpy().copy()
    known, wrong = list(classes or range(5)), 0
    for b, y, x in np.ndindex(2, 6, 7):
        label, position = int(labels[b, y, x]), expected[b, :, y, x]
        if label in known:
            right, top = known.index(label), int(position.argmax())
            position[[right, top]] = position[[top, right]]
            wrong += right != top
    assert wrong > 10 and torch.equal(found, torch.from_numpy(expected)) and found.dtype == dtype
    assert torch.equal(logits, before)


def test_labels_are_those_of_the_middle_of_a_position() -> None:
    labels = torch.zeros(1, 32, 32, dtype=torch.int64)
    labels[:, 8, 8] = labels[:, 24:, :16] = 1
    found = corrected_logits(torch.tensor([2.0, -1.0])[None, :, None, None].expand(1, 2, 2, 2), labels)
    assert found.argmax(1).tolist() == [[[1, 0], [1, 0]]]
