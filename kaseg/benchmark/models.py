"""Architectures to measure. Their weights are random: speed does not depend on them, and nothing is downloaded."""

from types import SimpleNamespace
from typing import Any

import torch
import yaml
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
    PretrainedConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES

from kaseg.checkpoints import resolve
from kaseg.configuration_kaseg import KASegConfig
from kaseg.distillation.teachers.outputs import logits_of
from kaseg.loading_errors import explained_loading

NUM_LABELS = 21


class Logits(nn.Module):
    """A model of any library as one from pixels (B, 3, H, W) to logits (B, num_labels, h, w), in eval mode."""

    config = SimpleNamespace(num_channels=3)

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval().requires_grad_(False)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        logits = logits_of(self.model(pixel_values))
        assert logits is not None
        return logits


def build_model(spec: str, num_labels: int = NUM_LABELS) -> Logits:
    """Builds a model with random weights, the same ones every time.

    Args:
        spec: One of

            - a folder with a `config.json`, a shipped checkpoint or a Hub id, of kaseg or transformers;
            - `kaseg:FIELD=VALUE,...`, fields of [`KASegConfig`];
            - `transformers:MODEL_TYPE[:FIELD=VALUE,...]`, such as `transformers:segformer`; a universal model's queries
              are turned into scores of classes;
            - `smp:ARCHITECTURE:ENCODER`, of segmentation_models.pytorch, such as `smp:Unet:mobilenet_v2`;
            - `torchvision:NAME`, such as `torchvision:lraspp_mobilenet_v3_large`.
        num_labels: Classes, for all but the first form, whose config says.

    Raises:
        ValueError: The library has no such model, or its config no such field.
        ImportError: The library is not installed.
        OSError: There is no such folder or Hub model.
    """
    library, _, rest = spec.partition(":")
    torch.manual_seed(0)
    if library == "torchvision":
        return Logits(_torchvision(rest, num_labels))
    if library == "smp":
        return Logits(_smp(rest, num_labels))
    if library == "transformers":
        kind, _, fields = rest.partition(":")
        if kind not in CONFIG_MAPPING:
            raise ValueError(f"{spec}: transformers has no model type {kind!r}")
        config = _config(CONFIG_MAPPING[kind], fields, spec, num_labels)
    elif library == "kaseg" and rest:
        config = _config(KASegConfig, rest, spec, num_labels)
    else:
        name = resolve(spec)
        with explained_loading(name):
            config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    if config.model_type == "oneformer":
        raise ValueError(f"{spec}: OneFormer is told its task in words beside the image, which is not measured here")
    universal = config.model_type in MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES
    auto_class = AutoModelForUniversalSegmentation if universal else AutoModelForSemanticSegmentation
    return Logits(auto_class.from_config(config))


def _torchvision(name: str, num_labels: int) -> nn.Module:
    from torchvision.models import get_model, list_models, segmentation

    known = list_models(segmentation)
    if name not in known:
        raise ValueError(f"torchvision has no segmentation model {name!r}; it has {', '.join(known)}")
    return get_model(name, weights=None, weights_backbone=None, num_classes=num_labels)


def _smp(name: str, num_labels: int) -> nn.Module:
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        install = "pip install segmentation-models-pytorch"
        raise ImportError(f"smp models need segmentation_models.pytorch: {install} ({error})") from error
    architecture, _, encoder = name.partition(":")
    try:
        return smp.create_model(architecture, encoder or "resnet34", encoder_weights=None, classes=num_labels)
    except KeyError as error:
        raise ValueError(f"segmentation_models.pytorch has no {name!r}: {error}") from error


def _config(kind: type[PretrainedConfig], text: str, spec: str, num_labels: int) -> PretrainedConfig:
    fields: dict[str, Any] = {"num_labels": num_labels}
    known = kind()
    for item in filter(None, text.split(",")):
        name, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"{spec}: expected FIELD=VALUE, got {item!r}")
        if not hasattr(known, name):  # a config would keep any name, and the model be another one than was meant
            raise ValueError(f"{spec}: {kind.__name__} has no field {name!r}")
        fields[name] = yaml.safe_load(value)
    return kind(**fields)
