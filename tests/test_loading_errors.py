"""Checkpoints that lack weights; what the Hub has to do with loading is in tests/hub/test_loading.py."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import (
    BeitConfig,
    BeitForSemanticSegmentation,
    MobileNetV2Config,
    MobileNetV2ForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)

from kaseg import KASegConfig, KASegImageProcessor, KASegModel
from kaseg.cli.models import load_model
from kaseg.distillation.teachers.loading import load_teacher
from kaseg.loading_errors import CheckpointError

BEIT = {"hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 8, "image_size": 32}
MODELS: dict[str, Callable[[], Any]] = {
    "segformer": lambda: SegformerForSemanticSegmentation(
        SegformerConfig(depths=[1] * 4, hidden_sizes=[8] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8)
    ),
    "mobilenet_v2": lambda: MobileNetV2ForSemanticSegmentation(MobileNetV2Config(depth_multiplier=0.35)),
    "beit": lambda: BeitForSemanticSegmentation(BeitConfig(**BEIT, out_indices=[0, 1, 2, 3])),
}


LOAD: list[Callable[[str], Any]] = [load_teacher, partial(load_model, device="cpu")]


@pytest.mark.parametrize("name", MODELS)
def test_an_encoder_without_its_head_is_refused(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    for folder, saved in (("whole", model), ("encoder", model.base_model)):
        SegformerImageProcessor().save_pretrained(tmp_path / folder)
        saved.save_pretrained(tmp_path / folder)
    for load in LOAD:
        with pytest.raises(CheckpointError, match=f"lacks .* weights of a {type(model).__name__} .*not its encoder"):
            load(str(tmp_path / "encoder"))
        load(str(tmp_path / "whole"))


@pytest.mark.parametrize("lacking", ["classifier.bias", "head.project.0.weight", "encoder.body.bn1.weight"])
def test_ours_without_a_weight_is_refused(lacking: str, tmp_path: Path) -> None:
    KASegModel(KASegConfig(backbone="test_resnet", head_channels=8)).save_pretrained(tmp_path)
    KASegImageProcessor().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights[lacking]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    for load in LOAD:
        with pytest.raises(CheckpointError, match=f"lacks 1 of the .* weights of a KASegModel .{lacking}"):
            load(str(tmp_path))
