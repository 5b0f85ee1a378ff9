"""Every family of teacher that the documentation names, tiny and with random weights."""

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


def of_transformers(name: str, task: str = "Semantic", **fields: Any) -> nn.Module:
    config = getattr(transformers, f"{name}Config")(**fields, id2label=NAMES)
    return getattr(transformers, f"{name}For{task}Segmentation")(config)


STAGES = {"depths": [1, 1, 1, 1], "out_features": ["stage1", "stage2", "stage3", "stage4"]}
WINDOWS = {**STAGES, "image_size": 64, "embed_dim": 4, "num_heads": [1, 1, 2, 2], "window_size": 4}
VIT = {"num_hidden_layers": 4, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
VIT |= {"image_size": 64, "patch_size": 16}
POOLED = {**VIT, "pool_scales": [1, 2], "use_relative_position_bias": True, "auxiliary_channels": 8}
DECODER = {"encoder_feedforward_dim": 16, "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2}
DECODER |= {"dim_feedforward": 16, "num_queries": 6}


def swin() -> Any:
    return transformers.SwinConfig(**WINDOWS)


def upernet(backbone: Any) -> nn.Module:
    return of_transformers(
        "UperNet", backbone_config=backbone, hidden_size=16, auxiliary_channels=8, auxiliary_in_channels=16
    )


def mobilevit() -> nn.Module:
    sizes = {"hidden_sizes": [8, 8, 8], "neck_hidden_sizes": [4, 4, 8, 8, 8, 8, 16], "num_attention_heads": 2}
    return of_transformers("MobileViT", **sizes, image_size=64, aspp_out_channels=16, output_stride=16)


def maskformer() -> nn.Module:
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_layers": 1, "decoder_layers": 1}
    decoder = transformers.DetrConfig(
        **heads, d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=6, max_position_embeddings=64
    )
    backbone = transformers.MaskFormerSwinConfig(**WINDOWS)
    sizes = {"fpn_feature_size": 32, "mask_feature_size": 12}
    return of_transformers("MaskFormer", "Instance", backbone_config=backbone, decoder_config=decoder, **sizes)


def oneformer() -> nn.Module:
    sizes = {"conv_dim": 32, "mask_dim": 32, "hidden_dim": 32, "query_dec_layers": 1, "task_seq_len": 7}
    return of_transformers("OneFormer", "Universal", backbone_config=swin(), **DECODER, **sizes, is_training=False)


def eomt() -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "num_blocks": 1, "num_queries": 6}
    model = of_transformers(
        "Eomt", "Universal", **sizes, image_size=64, patch_size=16, num_upscale_blocks=2, mlp_ratio=1
    )
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
    "segformer": Family(
        lambda: of_transformers("Segformer", depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=24),
        "<decode_head.classifier", 24, 4,
    ),
    "upernet-convnext": Family(
        lambda: upernet(transformers.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], **STAGES)),
        "<decode_head.classifier", 16, 4,
    ),
    "upernet-swin": Family(lambda: upernet(swin()), "<decode_head.classifier", 16, 4),
    "beit": Family(
        lambda: of_transformers("Beit", **POOLED, out_indices=[1, 2, 3, 4]), "<decode_head.classifier", 16, 4
    ),
    "data2vec": Family(
        lambda: of_transformers("Data2VecVision", **POOLED, out_indices=[0, 1, 2, 3]), "<decode_head.classifier", 16, 4
    ),
    "dpt": Family(
        lambda: of_transformers(
            "DPT", **VIT, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8] * 4, fusion_hidden_size=12
        ),
        "<head.head.4", 12, 2,
    ),
    "mobilevit": Family(mobilevit, "<segmentation_head.classifier.convolution", 16, 16),
    "mobilenet-v2": Family(
        lambda: of_transformers("MobileNetV2", depth_multiplier=0.25, output_stride=8),
        "<segmentation_head.classifier.convolution", 256, 8,
    ),
    "mask2former": Family(
        lambda: of_transformers(
            "Mask2Former", "Universal", backbone_config=swin(), **DECODER, feature_size=32, mask_feature_size=12,
            hidden_dim=16,
        ),
        "model.pixel_level_module.decoder.mask_projection", 12, 4,
    ),
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
}  # fmt: skip
