import numpy as np
import pytest
import torch

from kaseg.distillation.losses import PairwiseLoss


def reference(student, teacher, nodes, mask):
    """Nodes by loops over windows that need not overlap (sizes divide by `nodes`)."""
    per_image = []
    for b in range(len(student)):
        matrices, exist = [], np.ones(nodes**2, bool)
        for features, m in ((student, mask[0]), (teacher, mask[1])):
            x = features[b].double().numpy()
            step_y, step_x = x.shape[1] // nodes, x.shape[2] // nodes
            vectors = []
            for node, (i, j) in enumerate(np.ndindex(nodes, nodes)):
                window = np.s_[i * step_y : (i + 1) * step_y, j * step_x : (j + 1) * step_x]
                inside = m[b].numpy()[window]
                exist[node] &= inside.any()
                vectors.append(x[:, *window][:, inside].max(axis=1) if inside.any() else np.ones(len(x)))
            unit = [v / np.sqrt(np.sum(v**2) + 1e-8) for v in vectors]
            matrices.append(np.array([[np.dot(u, v) for v in unit] for u in unit]))
        keep = np.flatnonzero(exist)
        squares = (matrices[0] - matrices[1])[np.ix_(keep, keep)] ** 2
        per_image.append(squares.mean() if len(keep) else 0.0)
    return np.mean(per_image)


@pytest.mark.parametrize("nodes", [2, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_matches_the_formula(pair, nodes, masked):
    student, teacher = pair(2, 5, 8, 4)[0], pair(2, 7, 12, 8)[1]
    masks = [torch.ones(2, *x.shape[2:], dtype=torch.bool) for x in (student, teacher)]
    if masked:
        masks[0][0, :4, :2] = False  # a whole node of the first image
        masks[1][1, 1:] = False
    expected = reference(student, teacher, nodes, masks)
    given = masks if masked else [None, None]
    assert PairwiseLoss(nodes)(student, teacher, *given).item() == pytest.approx(expected, rel=1e-5)


def test_scale_and_rotation_of_either_map_change_nothing(pair, rotation):
    student, teacher = pair(2, 5, 4, 4)
    loss = PairwiseLoss(nodes=4, eps=1e-8)  # every position a node: max-pooling does not commute with a rotation
    changed = loss(rotation(5, 9 * student), rotation(5, teacher / 9))
    assert changed.item() == pytest.approx(loss(student, teacher).item(), rel=1e-4)
    assert loss(student, rotation(5, 3 * student)).item() < 1e-10


def test_only_node_similarities_are_formed(pair):
    assert PairwiseLoss(nodes=3)._similarities(pair(1, 4, 65, 65)[0], None)[0].shape == (1, 9, 9)


def test_masks_of_the_wrong_size_are_refused(pair):
    student, teacher = pair(2, 5, 4, 4)[0], pair(2, 5, 8, 8)[1]
    with pytest.raises(ValueError, match=r"mask.*\(2, 8, 8\).*\(2, 4, 4\)"):
        PairwiseLoss()(student, teacher, torch.ones(2, 4, 4, dtype=torch.bool))
