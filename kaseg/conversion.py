"""Weights of transformers' MobileNetV2ForSemanticSegmentation in our layout and back: the same network, other names."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import timm
import torch

# Inverted residuals per timm stage (blocks.1 to blocks.6); transformers numbers them through as layer.0 to layer.15.
_BLOCKS_PER_STAGE = (2, 3, 4, 3, 3, 1)
_STEM = {
    "first_conv.convolution": "conv_stem",
    "first_conv.normalization": "bn1",
    "conv_3x3.convolution": "blocks.0.0.conv_dw",
    "conv_3x3.normalization": "blocks.0.0.bn1",
    "reduce_1x1.convolution": "blocks.0.0.conv_pw",
    "reduce_1x1.normalization": "blocks.0.0.bn2",
}
_RESIDUAL = {
    "expand_1x1.convolution": "conv_pw",
    "expand_1x1.normalization": "bn1",
    "conv_3x3.convolution": "conv_dw",
    "conv_3x3.normalization": "bn2",
    "reduce_1x1.convolution": "conv_pwl",
    "reduce_1x1.normalization": "bn3",
}
_HEAD = {
    "conv_pool.convolution": "head.pool.project.0",
    "conv_pool.normalization": "head.pool.project.1",
    "conv_aspp.convolution": "head.conv.0",
    "conv_aspp.normalization": "head.conv.1",
    "conv_projection.convolution": "head.project.0",
    "conv_projection.normalization": "head.project.1",
    "classifier.convolution": "classifier",
}
# The layer of 1280 channels before the pooled output: it is not on the way to the segmentation logits.
_UNUSED = "mobilenet_v2.conv_1x1."
# Fields that both configs have under one name.
_SAME_FIELDS = (
    "output_stride",
    "num_channels",
    "tf_padding",
    "classifier_dropout_prob",
    "semantic_loss_ignore_index",
    "id2label",
    "label2id",
)
# Settings of timm that make no difference outside training.
_TRAINING_ONLY = {"drop_rate", "drop_path_rate"}


def config_from_mobilenet_v2(config: Any) -> dict[str, Any]:
    """Keyword arguments of the `KASegConfig` that describes the same network as a `MobileNetV2Config`.

    Raises:
        ValueError: the network differs from MobileNetV2-DeepLab in a way that no timm encoder has.
    """
    backbone = f"mobilenetv2_{round(config.depth_multiplier * 100):03d}"
    unsupported = [
        f"{name}={getattr(config, name)!r}"
        for name, expected in (("expand_ratio", 6.0), ("hidden_act", "relu6"), ("first_layer_is_expansion", True))
        if getattr(config, name) != expected
    ]
    if unsupported or not timm.is_model(backbone):
        reason = ", ".join(unsupported) or f"depth_multiplier={config.depth_multiplier} (no timm encoder {backbone})"
        raise ValueError(f"Cannot import this MobileNetV2 into a KASegModel: {reason} is not supported.")
    return {
        **{name: getattr(config, name) for name in _SAME_FIELDS},
        "backbone": backbone,
        "batch_norm_eps": config.layer_norm_eps,
        # What `config_to_mobilenet_v2` leaves there; transformers does not read it.
        "pad_to_stride": getattr(config, "pad_to_stride", False),
        "palette": getattr(config, "palette", None),
    }


def config_to_mobilenet_v2(config: Any) -> dict[str, Any]:
    """Keyword arguments of the `MobileNetV2Config` that describes the same network as a `KASegConfig`.

    `pad_to_stride` and `palette` are kept beside them for the way back; transformers does not use them.

    Raises:
        ValueError: transformers has no such network; the message says why, and what can be done.
    """
    match = re.fullmatch(r"mobilenetv2_(\d{3})(\..+)?", config.backbone)
    reasons = [] if match else [f"the encoder is {config.backbone}, not mobilenetv2_035 to mobilenetv2_140"]
    if config.head != "student":
        reasons.append(f"the head is {config.head!r}, not 'student'")
    if config.head_channels != 256:
        reasons.append(f"head_channels is {config.head_channels}, not 256")
    if other := sorted(set(config.backbone_kwargs or {}) - _TRAINING_ONLY):
        reasons.append(f"backbone_kwargs has {', '.join(other)}")
    if not match or reasons:
        raise ValueError(
            "transformers' MobileNetV2ForSemanticSegmentation is not this network: "
            f"{'; '.join(reasons)}. What runs without kaseg all the same: kaseg export --format onnx (or another "
            "engine), kaseg export --format transformers-js (browsers), kaseg push --with-code (trust_remote_code)."
        )
    return {
        **{name: getattr(config, name) for name in _SAME_FIELDS},
        "depth_multiplier": int(match[1]) / 100,
        # timm's own epsilon is that of torch.
        "layer_norm_eps": 1e-5 if config.batch_norm_eps is None else config.batch_norm_eps,
        "pad_to_stride": config.pad_to_stride,
        "palette": config.palette,
    }


def convert_mobilenet_v2(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """State dict of a `MobileNetV2ForSemanticSegmentation` -> that of a `KASegModel`, which has no 1280-channel layer.

    Raises:
        ValueError: a key that such a model does not have.
    """
    return {_rename(key): tensor for key, tensor in state_dict.items() if not key.startswith(_UNUSED)}


def convert_to_mobilenet_v2(state_dict: Mapping[str, torch.Tensor], keys: Iterable[str]) -> dict[str, torch.Tensor]:
    """State dict of a `KASegModel` -> that of a `MobileNetV2ForSemanticSegmentation` with these keys, but for those of
    the 1280-channel layer, which a `KASegModel` does not have."""
    return {key: state_dict[_rename(key)] for key in keys if not key.startswith(_UNUSED)}


def _rename(key: str) -> str:
    module, _, suffix = key.rpartition(".")
    if module.startswith("mobilenet_v2.conv_stem."):
        name = _STEM.get(module.removeprefix("mobilenet_v2.conv_stem."))
        if name is not None:
            return f"encoder.body.{name}.{suffix}"
    match = re.fullmatch(r"mobilenet_v2\.layer\.(\d+)\.(.+)", module)
    if match and match[2] in _RESIDUAL:
        stage, block = _locate(int(match[1]))
        return f"encoder.body.blocks.{stage}.{block}.{_RESIDUAL[match[2]]}.{suffix}"
    name = _HEAD.get(module.removeprefix("segmentation_head."))
    if name is None:
        raise ValueError(f"Unexpected key {key!r}: not from a transformers MobileNetV2ForSemanticSegmentation.")
    return f"{name}.{suffix}"


def _locate(layer: int) -> tuple[int, int]:
    for stage, blocks in enumerate(_BLOCKS_PER_STAGE, start=1):
        if layer < blocks:
            return stage, layer
        layer -= blocks
    raise ValueError(f"MobileNetV2 has {sum(_BLOCKS_PER_STAGE)} inverted residuals, found layer {layer} beyond them.")
