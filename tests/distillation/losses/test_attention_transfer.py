import numpy as np
import pytest

from kaseg.distillation.losses import AttentionTransferLoss


def reference(student, teacher, mask):
    per_image = []
    for b in range(len(student)):
        maps = []
        for features in (student, teacher):
            vectors = features[b].double().numpy()[:, mask[b].numpy()]
            squares = np.sum(vectors**2, axis=0)
            maps.append(squares / np.sqrt(np.sum(squares**2)))
        per_image.append(np.mean((maps[0] - maps[1]) ** 2))
    return np.mean(per_image)


def test_matches_the_formula(pair, mask):
    student, teacher = pair(2, 5, 3, 4)[0], pair(2, 7, 3, 4)[1]
    loss = AttentionTransferLoss()(student, teacher, mask)
    assert loss.item() == pytest.approx(reference(student, teacher, mask), rel=1e-5)
