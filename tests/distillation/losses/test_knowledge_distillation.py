import numpy as np
import pytest
import torch

from kaseg.distillation.losses import KnowledgeDistillationLoss


def reference(student, teacher, temperature, mask):
    """The formula of the docstring, position by position."""
    student, teacher = student.double().numpy(), teacher.double().numpy()
    batch, _, height, width = student.shape
    divergences = []
    for b, y, x in np.ndindex(batch, height, width):
        if mask[b, y, x]:
            p = [np.exp(z[b, :, y, x] / temperature) for z in (teacher, student)]
            p_teacher, p_student = p[0] / p[0].sum(), p[1] / p[1].sum()
            divergences.append(np.sum(p_teacher * np.log(p_teacher / p_student)))
    return temperature**2 * np.mean(divergences)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_matches_the_formula(pair, temperature, mask):
    student, teacher = pair(2, 5, 3, 4)
    expected, loss = reference(student, teacher, temperature, mask), KnowledgeDistillationLoss(temperature)
    assert loss(student, teacher, mask).item() == pytest.approx(expected, rel=1e-4)
    assert loss(student.double(), teacher.double(), mask).item() == pytest.approx(expected, rel=1e-10)


def test_at_a_high_temperature_it_compares_centred_logits(pair):
    """Hinton et al. 2015, section 2.1: matching logits is the limit; T^2 KL -> 1/(2C) sum of squared differences."""
    student, teacher = (x - x.mean(1, keepdim=True) for x in pair(2, 5, 3, 4, dtype=torch.float64))
    limit = (student - teacher).square().sum(1).mean() / (2 * 5)
    assert KnowledgeDistillationLoss(1e4)(student, teacher).item() == pytest.approx(limit.item(), rel=1e-3)
