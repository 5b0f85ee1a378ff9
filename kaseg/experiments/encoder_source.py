"""A trained network's encoder as the start of a new model."""

from typing import Any

import torch
from transformers import AutoConfig, AutoImageProcessor, MobileNetV2ForSemanticSegmentation

from kaseg.checkpoints import resolve
from kaseg.configuration_kaseg import KASegConfig
from kaseg.image_processing_kaseg import KASegImageProcessor
from kaseg.loading_errors import explained_loading
from kaseg.modeling_kaseg import KASegModel

# What of an encoder's configuration its weights depend on; an encoder's weights fit every output stride.
_FIELDS = ("backbone", "num_channels", "tf_padding", "batch_norm_eps", "backbone_kwargs")


def read_encoder(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The encoder of a [`KASegModel`], or of a transformers MobileNetV2 DeepLab, by its Hub id, folder or shipped name:
    keyword arguments for [`KASegConfig`] that describe it, and its tensors.

    Raises:
        CheckpointError (an `OSError`): no such checkpoint, no right to read it, no network, or damaged weights.
        ValueError: another kind of model.
    """
    path = resolve(name)
    with explained_loading(path):
        model_type = AutoConfig.from_pretrained(path, trust_remote_code=False).model_type
        if model_type == "mobilenet_v2":
            foreign = MobileNetV2ForSemanticSegmentation.from_pretrained(path, use_safetensors=True)
    if model_type == "mobilenet_v2":
        model = KASegModel.from_transformers(foreign)
    elif model_type == KASegConfig.model_type:
        model = KASegModel.from_pretrained(path)
    else:
        raise ValueError(
            f"encoder_from={name}: a model of type {model_type!r}. An encoder can be taken from a KASegModel or from a "
            "transformers MobileNetV2ForSemanticSegmentation."
        )
    return {field: getattr(model.config, field) for field in _FIELDS}, model.encoder.state_dict()


def normalization_of(name: str) -> KASegImageProcessor:
    """A processor with the normalization of a checkpoint's own ([`KASegImageProcessor.of`]), without its resizing and
    padding; a ValueError if no KASegImageProcessor makes its pixel values, a CheckpointError (an `OSError`) if it
    cannot be loaded."""
    path = resolve(name)
    with explained_loading(path):
        processor = AutoImageProcessor.from_pretrained(path, trust_remote_code=False)
    found = KASegImageProcessor.of(processor)
    kept = ("image_mean", "image_std", "do_rescale", "rescale_factor", "do_normalize")
    return KASegImageProcessor(**{name: getattr(found, name) for name in kept})
