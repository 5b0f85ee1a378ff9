"""How a teacher wants its pixels: what can be found out without fetching anything."""

from collections.abc import Mapping
from typing import Any

import timm
from torch import nn
from transformers import AutoImageProcessor, PreTrainedModel

from kaseg.pixels import Normalization


def find_normalization(model: nn.Module) -> Normalization | None:
    """What can be known of a network that was not loaded by us: from the processor that lies where a transformers
    model came from, from the encoder of a segmentation_models.pytorch model, or from the `pretrained_cfg` of a timm
    network inside it."""
    if isinstance(model, PreTrainedModel):
        return _beside(model.config.name_or_path)
    settings = getattr(model, "config", None)
    if isinstance(settings, Mapping) and "encoder_name" in settings:
        return normalization_of_smp(settings["encoder_name"], settings.get("encoder_weights"))
    for module in model.modules():
        found = getattr(module, "pretrained_cfg", None)
        if isinstance(found, Mapping) and found.get("mean") and found.get("std"):
            return normalization_of_settings(found)
    return None


def normalization_of_settings(settings: Mapping[str, Any]) -> Normalization:
    """Of timm's `pretrained_cfg` or `get_preprocessing_params` of segmentation_models.pytorch."""
    top = max(settings.get("input_range") or (0, 1))
    flips = settings.get("input_space", "RGB") == "BGR"
    # There the channels are turned first, and the mean is in the order of the turned ones.
    mean, std = (
        tuple(v / top for v in (reversed(settings[name]) if flips else settings[name])) for name in ("mean", "std")
    )
    return Normalization(mean, std, flips)


def normalization_of_smp(encoder_name: str, encoder_weights: str | None) -> Normalization | None:
    """What an encoder of segmentation_models.pytorch was pretrained with."""
    if encoder_name.startswith("tu-"):
        config = timm.models.get_pretrained_cfg(encoder_name.removeprefix("tu-"), allow_unregistered=True)
        return normalization_of_settings(config.to_dict()) if config is not None else None
    from segmentation_models_pytorch.encoders import get_preprocessing_params

    try:
        return normalization_of_settings(get_preprocessing_params(encoder_name, encoder_weights or "imagenet"))
    except (OSError, ValueError):  # not in the cache and no network, or no such weights
        return None


def _beside(name: str) -> Normalization | None:
    if not name:
        return None
    try:
        # False, as transformers would otherwise ask on the terminal whether to run the code of a repository.
        processor = AutoImageProcessor.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):  # made by hand, or saved without a processor
        return None
    return Normalization.of_processor(processor)
