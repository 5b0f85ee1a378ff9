"""Architectures by name."""

from pathlib import Path

import pytest
import torch

from kaseg import KASegConfig
from kaseg.benchmark.models import build_model
from kaseg.modeling_kaseg import KASegModel

PIXELS = torch.zeros(1, 3, 64, 96)


@pytest.mark.parametrize(
    ("spec", "stride"),
    [
        ("kaseg:backbone=mobilenetv2_035,output_stride=16", 16),
        ("transformers:mobilenet_v2:depth_multiplier=0.35,output_stride=8", 8),
        ("torchvision:lraspp_mobilenet_v3_large", 1),
        ("smp:Unet:mobilenet_v2", 1),
    ],
)
def test_every_form_gives_logits(spec: str, stride: int) -> None:
    model = build_model(spec, num_labels=7)
    assert model(PIXELS).shape == (1, 7, 64 // stride, 96 // stride)
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())


def test_queries_of_universal_models_become_scores_of_classes() -> None:
    small = "hidden_size=16,num_hidden_layers=2,num_blocks=1,num_attention_heads=2,image_size=64,num_queries=4"
    model = build_model(f"transformers:eomt:{small}", num_labels=5)
    scores = model(torch.zeros(1, 3, 64, 64))
    assert scores.shape[:2] == (1, 5) and scores.isfinite().all()
    with pytest.raises(ValueError, match="OneFormer is told its task"):
        build_model("transformers:oneformer")


def test_a_folder_without_weights_is_enough(tmp_path: Path) -> None:
    KASegConfig(backbone="mobilenetv2_035", output_stride=32, num_labels=4).save_pretrained(tmp_path)
    model = build_model(str(tmp_path))
    assert isinstance(model.model, KASegModel)
    assert model(PIXELS).shape == (1, 4, 2, 3)


def test_the_same_weights_every_time() -> None:
    first, second = (build_model("kaseg:backbone=mobilenetv2_035").state_dict() for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="lraspp_mobilenet_v3_large"):
        build_model("torchvision:resnet18")
    with pytest.raises(ValueError, match="Nothing"):
        build_model("smp:Nothing:mobilenet_v2")
    with pytest.raises(ValueError, match="no model type 'nothing'"):
        build_model("transformers:nothing")
    with pytest.raises(ValueError, match="FIELD=VALUE"):
        build_model("kaseg:mobilenetv2_100")
    for spec in ("kaseg:output_strid=32", "transformers:mobilenet_v2:stride=8"):
        with pytest.raises(ValueError, match="has no field"):
            build_model(spec)
