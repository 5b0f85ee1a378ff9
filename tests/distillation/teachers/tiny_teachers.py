"""Every family of teacher that the documentation names, tiny and with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
import transformers
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.fcn import FCN, FCNHead

CLASSES = 5
NAMES = {index: f"class {index}" for index in range(CLASSES)}


@dataclass(frozen=True)
class Family:
    """How a tiny member is built, and what its default tap must be found to be.

    Args:
        build: Makes the network.
        tap: The submodule whose input (`"<"` in front) or output is distilled by default.
        channels: Channels of the tapped map.
        stride: Stride of the tapped map.
        options: Further arguments of the adapter.
    """

    build: Callable[[], nn.Module]
    tap: str
    channels: int
    stride: int
    options: dict[str, Any] = field(default_factory=dict)


def segformer() -> nn.Module:
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=24, id2label=NAMES
    )
    return transformers.SegformerForSemanticSegmentation(config)


def upernet(backbone: Any) -> nn.Module:
    config = transformers.UperNetConfig(
        backbone_config=backbone, hidden_size=16, auxiliary_channels=8, auxiliary_in_channels=16, id2label=NAMES
    )
    return transformers.UperNetForSemanticSegmentation(config)


def upernet_convnext() -> nn.Module:
    stages = ["stage1", "stage2", "stage3", "stage4"]
    return upernet(transformers.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], out_features=stages))


def swin() -> Any:
    stages = ["stage1", "stage2", "stage3", "stage4"]
    return transformers.SwinConfig(
        image_size=64, embed_dim=4, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, out_features=stages
    )


def upernet_swin() -> nn.Module:
    return upernet(swin())


def vit_fields() -> dict[str, Any]:
    return {
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 64,
        "patch_size": 16,
        "id2label": NAMES,
    }


def beit() -> nn.Module:
    config = transformers.BeitConfig(
        **vit_fields(), out_indices=[1, 2, 3, 4], pool_scales=[1, 2], use_relative_position_bias=True,
        auxiliary_channels=8,
    )  # fmt: skip
    return transformers.BeitForSemanticSegmentation(config)


def data2vec() -> nn.Module:
    config = transformers.Data2VecVisionConfig(
        **vit_fields(), out_indices=[0, 1, 2, 3], pool_scales=[1, 2], use_relative_position_bias=True,
        auxiliary_channels=8,
    )  # fmt: skip
    return transformers.Data2VecVisionForSemanticSegmentation(config)


def dpt() -> nn.Module:
    config = transformers.DPTConfig(
        **vit_fields(), backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=12,
    )  # fmt: skip
    return transformers.DPTForSemanticSegmentation(config)


def mobilevit() -> nn.Module:
    config = transformers.MobileViTConfig(
        image_size=64, hidden_sizes=[8, 8, 8], neck_hidden_sizes=[4, 4, 8, 8, 8, 8, 16], num_attention_heads=2,
        aspp_out_channels=16, output_stride=16, id2label=NAMES,
    )  # fmt: skip
    return transformers.MobileViTForSemanticSegmentation(config)


def mobilenet_v2() -> nn.Module:
    config = transformers.MobileNetV2Config(depth_multiplier=0.25, output_stride=8, id2label=NAMES)
    return transformers.MobileNetV2ForSemanticSegmentation(config)


def mask2former() -> nn.Module:
    config = transformers.Mask2FormerConfig(
        backbone_config=swin(), feature_size=32, mask_feature_size=12, hidden_dim=16, encoder_feedforward_dim=16,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=16, num_queries=6, id2label=NAMES,
    )  # fmt: skip
    return transformers.Mask2FormerForUniversalSegmentation(config)


def maskformer() -> nn.Module:
    config = transformers.MaskFormerConfig(
        backbone_config=transformers.MaskFormerSwinConfig(**{
            "image_size": 64, "embed_dim": 4, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4,
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        }),
        decoder_config=transformers.DetrConfig(
            d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=6,
            encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=64,
        ),
        fpn_feature_size=32, mask_feature_size=12, id2label=NAMES,
    )  # fmt: skip
    return transformers.MaskFormerForInstanceSegmentation(config)


def oneformer() -> nn.Module:
    config = transformers.OneFormerConfig(
        backbone_config=swin(), conv_dim=32, mask_dim=32, hidden_dim=32, encoder_feedforward_dim=16, encoder_layers=1,
        decoder_layers=2, num_attention_heads=2, dim_feedforward=16, num_queries=6, query_dec_layers=1,
        task_seq_len=7, is_training=False, id2label=NAMES,
    )  # fmt: skip
    return transformers.OneFormerForUniversalSegmentation(config)


def eomt() -> nn.Module:
    config = transformers.EomtConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=64, patch_size=16, num_blocks=1,
        num_queries=6, num_upscale_blocks=2, mlp_ratio=1, id2label=NAMES,
    )  # fmt: skip
    model = transformers.EomtForUniversalSegmentation(config)
    model.attn_mask_probs.zero_()  # as in trained checkpoints: no mask is drawn at random
    return model


class TimmWithHead(nn.Module):
    """Anybody's own network: a timm encoder and a head, logits in a plain tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = timm.create_model("test_resnet", features_only=True)
        self.project = nn.Conv2d(self.trunk.feature_info.channels()[-1], 10, 1)
        self.out = nn.Conv2d(10, CLASSES, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.out(self.project(self.trunk(images)[-1]).relu())


def of_smp(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(smp, name)("tu-test_resnet", encoder_weights=None, classes=CLASSES, **options)


def torchvision_fcn() -> nn.Module:
    trunk = IntermediateLayerGetter(torchvision.models.resnet18(), {"layer4": "out", "layer3": "aux"})
    return FCN(trunk, FCNHead(512, CLASSES), FCNHead(256, CLASSES))


def of_torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    function = getattr(torchvision.models.segmentation, name)
    return lambda: function(weights=None, weights_backbone=None, num_classes=CLASSES, **options)


TASK = {"task_inputs": torch.arange(7)[None]}
UNIVERSAL = ("mask2former", "maskformer", "oneformer", "eomt")
FAMILIES = {
    "segformer": Family(segformer, "<decode_head.classifier", 24, 4),
    "upernet-convnext": Family(upernet_convnext, "<decode_head.classifier", 16, 4),
    "upernet-swin": Family(upernet_swin, "<decode_head.classifier", 16, 4),
    "beit": Family(beit, "<decode_head.classifier", 16, 4),
    "data2vec": Family(data2vec, "<decode_head.classifier", 16, 4),
    "dpt": Family(dpt, "<head.head.4", 12, 2),
    "mobilevit": Family(mobilevit, "<segmentation_head.classifier.convolution", 16, 16),
    "mobilenet-v2": Family(mobilenet_v2, "<segmentation_head.classifier.convolution", 256, 8),
    "mask2former": Family(mask2former, "model.pixel_level_module.decoder.mask_projection", 12, 4),
    "maskformer": Family(maskformer, "model.pixel_level_module.decoder.mask_projection", 12, 4),
    "oneformer": Family(oneformer, "model.pixel_level_module.decoder.mask_projection", 32, 4, {"model_inputs": TASK}),
    "eomt": Family(eomt, "upscale_block", 16, 4),
    "smp-unet": Family(of_smp("Unet", decoder_channels=(16, 16, 8, 8, 8)), "<segmentation_head.0", 8, 1),
    "smp-fpn": Family(
        of_smp("FPN", decoder_pyramid_channels=16, decoder_segmentation_channels=32), "<segmentation_head.0", 32, 4
    ),
    "smp-deeplabv3plus": Family(of_smp("DeepLabV3Plus", decoder_channels=16), "<segmentation_head.0", 16, 4),
    "torchvision-deeplabv3": Family(
        of_torchvision("deeplabv3_mobilenet_v3_large", aux_loss=True), "<classifier.4", 256, 16
    ),
    "torchvision-lraspp": Family(of_torchvision("lraspp_mobilenet_v3_large"), "<classifier.high_classifier", 128, 8),
    "torchvision-fcn": Family(torchvision_fcn, "<classifier.4", 128, 32),
    "timm": Family(TimmWithHead, "project", 10, 32, {"tap": "project"}),
}
