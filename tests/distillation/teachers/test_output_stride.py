from functools import partial

import pytest
import torch
from tiny_teachers import of_transformers
from torch import nn
from toy import make_model

from kaseg import KASegImageProcessor
from kaseg.distillation import TeacherAdapter
from kaseg.distillation.teachers.building import build_teacher
from kaseg.distillation.teachers.output_stride import at_output_stride
from kaseg.pixels import Normalization

NORMALIZATION = Normalization((0.5,) * 3, (0.5,) * 3)


_kaseg = partial(make_model, head_channels=16)
_deeplab = partial(of_transformers, "MobileNetV2", depth_multiplier=0.25, output_stride=16)
SIZES = {"hidden_sizes": [8, 8, 8], "neck_hidden_sizes": [4, 4, 8, 8, 8, 8, 16], "num_attention_heads": 2}


@pytest.mark.parametrize("make", [_kaseg, _deeplab])
def test_the_same_weights_at_stride_8(make) -> None:
    model = make().eval()
    finer = at_output_stride(model, 8)
    assert model.config.output_stride == 16 and finer.config.output_stride == 8
    weights = finer.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    teachers = [build_teacher(model, _kaseg(), NORMALIZATION, output_stride=stride) for stride in (None, 16, 8)]
    assert [teacher.maps()["features"].stride for teacher in teachers] == [16, 16, 8]
    assert teachers[1].model is model
    images = torch.randn(1, 3, 64, 96)
    found = teachers[2](images).features
    assert found.shape[-2:] == (8, 12)
    assert torch.equal(found, TeacherAdapter(finer, student_mean=[0.5] * 3, student_std=[0.5] * 3)(images).features)


def test_a_teacher_from_a_folder(tmp_path) -> None:
    model = _kaseg()
    model.save_pretrained(tmp_path)
    KASegImageProcessor().save_pretrained(tmp_path)
    teacher = build_teacher(str(tmp_path), _kaseg(), NORMALIZATION, output_stride=8)
    assert teacher.describe() == (16, 8) and teacher.normalization is not None
    assert torch.equal(teacher.model.classifier.weight, model.classifier.weight)


def test_rates_that_are_listed_are_scaled_with_the_grid() -> None:
    fields = {"head": "deeplabv3plus", "skip_channels": 8}
    listed = at_output_stride(_kaseg(**fields, atrous_rates=[6, 12, 18]), 8)
    assert listed.config.resolved_atrous_rates == at_output_stride(_kaseg(**fields), 8).config.resolved_atrous_rates
    assert listed.config.atrous_rates == [12, 24, 36]


@pytest.mark.parametrize(
    ("make", "stride", "message"),
    [
        (lambda: nn.Conv2d(3, 2, 1), 8, "Conv2d has no output_stride"),
        (_kaseg, 12, r"must be one of \(4, 8, 16, 32\)"),
        (lambda: _kaseg(backbone="edgenext_xx_small", output_stride=32), 8, "cannot have it|do not fit"),
        (
            partial(of_transformers, "MobileViT", **SIZES),
            4,
            "MobileViTForSemanticSegmentation cannot have it, its last map is at stride 32",
        ),
        (lambda: TeacherAdapter(_kaseg()), 8, "is a TeacherAdapter already"),
    ],
)
def test_what_cannot_have_it_is_refused(make, stride: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"teacher_output_stride={stride}.*(?:{message})"):
        build_teacher(make(), _kaseg(), NORMALIZATION, output_stride=stride)
