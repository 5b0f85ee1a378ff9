import pytest
import torch
from toy import make_model

from kaseg.distillation.student_with_adapters import StudentWithAdapters, student_map_shapes


@pytest.mark.parametrize("pads", [False, True])
@pytest.mark.parametrize("tap", [-1, 1, 5, -3])
def test_the_recorded_map_is_the_tapped_one_and_the_logits_come_from_it(tap: int, pads: bool) -> None:
    student = make_model(pad_to_stride=pads).eval()
    composite = StudentWithAdapters(student, {}, tap)
    images = torch.randn(1, 3, 33, 64)
    with composite.recorded_map() as maps:
        logits = composite(images).logits
    (found,) = maps
    tapped = student(images, output_hidden_states=True).hidden_states[tap]
    assert found.shape[1] == tapped.shape[1] == student_map_shapes(student, tap)["features"].channels
    assert pads or torch.equal(found, tapped)
    (gradient,) = torch.autograd.grad(logits.square().mean(), found)
    assert gradient.any()
    composite(images)
    assert len(maps) == 1  # it records inside alone


def test_the_strides_are_those_of_the_maps() -> None:
    student = make_model(output_stride=8).eval()
    states = student(torch.zeros(1, 3, 64, 64), output_hidden_states=True).hidden_states
    for tap, state in enumerate(states):
        assert student_map_shapes(student, tap)["features"] == (state.shape[1], 64 // state.shape[-1])
    assert student_map_shapes(student, -1)["logits"] == (2, 8)
