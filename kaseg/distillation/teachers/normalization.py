"""How a teacher wants its pixels: found in its checkpoint, or told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn
from transformers import AutoImageProcessor, PreTrainedModel


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of pixels in 0..1, and the order of their channels.

    Args:
        mean: One per channel, red first.
        std: One per channel, red first.
        flip_channels: Whether the network reads BGR.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip_channels: bool = False

    @classmethod
    def of_processor(cls, processor: Any) -> Normalization:
        """What a transformers image processor does to the pixels: one that does not normalise leaves them in 0..1, one
        that does not rescale either in 0..255."""
        factor = 255 * processor.rescale_factor if getattr(processor, "do_rescale", True) else 255
        flips = bool(getattr(processor, "do_flip_channel_order", False))
        # Processors such as MobileViT's have no mean at all.
        if getattr(processor, "do_normalize", None) and processor.image_mean is not None:
            mean, std = (_per_channel(v) for v in (processor.image_mean, processor.image_std))
        else:
            mean, std = (0.0,) * 3, (1.0,) * 3
        return cls(tuple(v / factor for v in mean), tuple(v / factor for v in std), flips)

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> Normalization:
        """Of timm's `pretrained_cfg` or `get_preprocessing_params` of segmentation_models.pytorch."""
        top = max(settings.get("input_range") or (0, 1))
        flips = settings.get("input_space", "RGB") == "BGR"
        # There the channels are turned first, and the mean is in the order of the turned ones.
        mean, std = (
            tuple(v / top for v in (reversed(settings[name]) if flips else settings[name])) for name in ("mean", "std")
        )
        return cls(mean, std, flips)

    @classmethod
    def of(cls, model: nn.Module) -> Normalization | None:
        """What can be known of a network that was not loaded by us, without fetching anything: from the processor that
        lies where a transformers model came from, from the encoder of a segmentation_models.pytorch model, or from
        the `pretrained_cfg` of a timm network inside it."""
        if isinstance(model, PreTrainedModel):
            return cls._beside(model.config.name_or_path)
        settings = getattr(model, "config", None)
        if isinstance(settings, Mapping) and "encoder_name" in settings:
            return cls.of_smp(settings["encoder_name"], settings.get("encoder_weights"))
        for module in model.modules():
            found = getattr(module, "pretrained_cfg", None)
            if isinstance(found, Mapping) and found.get("mean") and found.get("std"):
                return cls.of_settings(found)
        return None

    @classmethod
    def of_smp(cls, encoder_name: str, encoder_weights: str | None) -> Normalization | None:
        """What an encoder of segmentation_models.pytorch was pretrained with."""
        if encoder_name.startswith("tu-"):
            config = timm.models.get_pretrained_cfg(encoder_name.removeprefix("tu-"), allow_unregistered=True)
            return cls.of_settings(config.to_dict()) if config is not None else None
        from segmentation_models_pytorch.encoders import get_preprocessing_params

        try:
            return cls.of_settings(get_preprocessing_params(encoder_name, encoder_weights or "imagenet"))
        except (OSError, ValueError):  # not in the cache and no network, or no such weights
            return None

    @classmethod
    def _beside(cls, name: str) -> Normalization | None:
        if not name:
            return None
        try:
            # False, as transformers would otherwise ask on the terminal whether to run the code of a repository.
            processor = AutoImageProcessor.from_pretrained(name, local_files_only=True, trust_remote_code=False)
            return cls.of_processor(processor)
        except (OSError, ValueError):  # made by hand, or saved without a processor
            return None

    def from_student(self, mean: Sequence[float], std: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and shift (1, C, 1, 1) that turn pixels normalised with the student's `mean` and `std` into these."""
        own_mean, own_std, from_mean, from_std = (
            torch.tensor(_per_channel(v), dtype=torch.float64) for v in (self.mean, self.std, mean, std)
        )
        scale, shift = from_std / own_std, (from_mean - own_mean) / own_std
        return scale.float().view(1, -1, 1, 1), shift.float().view(1, -1, 1, 1)


def _per_channel(values: float | Sequence[float]) -> tuple[float, ...]:
    return (float(values),) * 3 if isinstance(values, int | float) else tuple(map(float, values))
