import pytest
import torch
from transformers import (
    MobileNetV2Config,
    MobileNetV2ForSemanticSegmentation,
    MobileNetV2ImageProcessor,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)

from kaseg import KASegImageProcessor
from kaseg.data import SCENES
from kaseg.experiments.encoder_source import normalization_of, read_encoder
from kaseg.experiments.recipe import ModelArguments
from kaseg.experiments.run import build_model


def test_a_new_model_starts_from_a_checkpoints_encoder_and_normalization(tmp_path) -> None:
    args = ModelArguments(backbone="test_resnet", output_stride=32, pretrained_backbone=False)
    source = build_model(args, SCENES, seed=5)
    source.save_pretrained(tmp_path)
    KASegImageProcessor(image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(tmp_path)
    args = ModelArguments(encoder_from=str(tmp_path), output_stride=16, head="deeplabv3plus")
    model = build_model(args, SCENES, seed=0)
    config = model.config
    assert (config.backbone, config.output_stride, config.head) == ("test_resnet", 16, "deeplabv3plus")
    state = model.encoder.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in source.encoder.state_dict().items())
    assert list(normalization_of(str(tmp_path)).image_std) == [0.25] * 3
    KASegImageProcessor(image_mean=[0.4] * 3, do_resize=True, size={"shortest_edge": 256}).save_pretrained(tmp_path)
    found = normalization_of(str(tmp_path))
    assert list(found.image_mean) == [0.4] * 3 and not found.do_resize, "the new model has a size of its own"


def test_a_deeplab_of_transformers_is_taken_too(tmp_path) -> None:
    config = MobileNetV2Config(depth_multiplier=0.5, finegrained_output=False, num_labels=3)
    MobileNetV2ForSemanticSegmentation(config).save_pretrained(tmp_path)
    MobileNetV2ImageProcessor().save_pretrained(tmp_path)
    fields, weights = read_encoder(str(tmp_path))
    model = build_model(ModelArguments(encoder_from=str(tmp_path)), SCENES, seed=0)
    assert fields["backbone"] == model.config.backbone == "mobilenetv2_050" and model.config.tf_padding
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.encoder.state_dict().items())
    assert list(normalization_of(str(tmp_path)).image_mean) == [0.5] * 3


def test_another_kind_of_model_is_refused(tmp_path) -> None:
    SegformerForSemanticSegmentation(SegformerConfig(depths=[1] * 4, hidden_sizes=[8] * 4)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="of type 'segformer'"):
        read_encoder(str(tmp_path))
