import numpy as np
import pytest
import torch

from kaseg.distillation.losses import IntraClassLoss


def reference(student, teacher, labels):
    squares = []
    for b in range(len(student)):
        y = labels[b].numpy()
        for place in zip(*np.nonzero(y != 255), strict=True):
            cosines = []
            for features in (student, teacher):
                x = features[b].double().numpy()
                center = x[:, y == y[place]].mean(axis=1)
                vector = x[:, place[0], place[1]]
                cosines.append(np.dot(vector, center) / np.sqrt((vector @ vector + 1e-8) * (center @ center + 1e-8)))
            squares.append((cosines[0] - cosines[1]) ** 2)
    return np.mean(squares)


@pytest.fixture
def labels():
    labels = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(1))
    labels[0, :2] = 255
    labels[1, 0, 0] = 254  # the highest class, and alone
    return labels


def test_matches_the_formula(pair, labels):
    student, teacher = pair(2, 6, 4, 5)[0], pair(2, 7, 4, 5)[1]
    loss = IntraClassLoss()(student, teacher, labels)
    assert loss.item() == pytest.approx(reference(student, teacher, labels), rel=1e-5)


def test_scale_rotation_and_names_of_classes_change_nothing(pair, rotation, labels):
    student, teacher = pair(2, 6, 4, 5)
    expected = IntraClassLoss()(student, teacher, labels).item()
    changed = IntraClassLoss()(rotation(6, 9 * student), teacher / 9, torch.where(labels < 3, (labels + 1) % 3, labels))
    assert changed.item() == pytest.approx(expected, rel=1e-3)


def test_a_class_of_one_position_contributes_nothing(pair):
    student, teacher = pair(1, 6, 1, 3)
    assert IntraClassLoss()(student, teacher, torch.tensor([[[0, 1, 2]]])).item() < 1e-12


def test_centres_belong_to_one_image(pair, labels):
    student, teacher = pair(2, 6, 4, 5)
    values = [IntraClassLoss()(student[b : b + 1], teacher[b : b + 1], labels[b : b + 1]).item() for b in range(2)]
    counts = labels.ne(255).flatten(1).sum(1).tolist()
    expected = np.average(values, weights=counts)
    assert IntraClassLoss()(student, teacher, labels).item() == pytest.approx(expected, rel=1e-5)


def test_void_does_not_exist(pair, labels):
    student, teacher = pair(2, 6, 4, 5)
    expected = IntraClassLoss()(student, teacher, labels).item()
    student[0, :, :2] = float("nan")
    student.requires_grad_()
    loss = IntraClassLoss()(student, teacher, labels)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert not gradient[0, :, :2].any() and gradient.isfinite().all()
    assert IntraClassLoss()(student, teacher, torch.full_like(labels, 255)).item() == 0
