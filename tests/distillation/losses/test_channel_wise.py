import numpy as np
import pytest

from kaseg.distillation.losses import ChannelWiseLoss


def reference(student, teacher, temperature, mask):
    batch, channels = student.shape[:2]
    total = 0.0
    for b in range(batch):
        inside = mask[b].numpy()
        for k in range(channels):
            p = [np.exp(x[b, k].double().numpy()[inside] / temperature) for x in (teacher, student)]
            p_teacher, p_student = p[0] / p[0].sum(), p[1] / p[1].sum()
            total += np.sum(p_teacher * np.log(p_teacher / p_student))
    return temperature**2 / (batch * channels) * total


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_matches_the_formula(pair, temperature, mask):
    student, teacher = pair(2, 5, 3, 4)
    expected, loss = reference(student, teacher, temperature, mask), ChannelWiseLoss(temperature)
    assert loss(student, teacher, mask).item() == pytest.approx(expected, rel=1e-4)
    assert loss(student.double(), teacher.double(), mask).item() == pytest.approx(expected, rel=1e-10)
