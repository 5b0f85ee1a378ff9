"""The same weights at another output stride."""

import copy
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from kaseg.configuration_kaseg import OUTPUT_STRIDES
from kaseg.modeling_kaseg import KASegModel


def at_output_stride(model: nn.Module, output_stride: int) -> nn.Module:
    """The network with the same weights and another output stride, as DeepLab is evaluated at a finer one than it was
    trained at (Chen et al. 2017, "Rethinking Atrous Convolution", section 3.3): convolutions are dilated in place of
    being strided.

    It is a [`KASegModel`] whose encoder can be dilated, or a model of transformers whose config has an `output_stride`,
    such as the MobileNetV2 DeepLab; else, or if it cannot have this stride, a ValueError is raised. Rates of an ASPP
    that the config lists are scaled with the grid, so that each reaches as many pixels as before. The network given
    stays as it is; it is given back where it has that stride already.
    """
    asked = f"teacher_output_stride={output_stride}"
    if output_stride not in OUTPUT_STRIDES:
        raise ValueError(f"{asked}: it must be one of {OUTPUT_STRIDES}.")
    own = getattr(model.config, "output_stride", None) if isinstance(model, PreTrainedModel) else None
    if own is None:
        raise ValueError(
            f"{asked}: {type(model).__name__} has no output_stride in its config. KASegModels have one, and so has "
            "transformers' MobileNetV2 DeepLab; leave it out for other teachers."
        )
    if own == output_stride:
        return model
    config: Any = model.config
    changed = copy.deepcopy(config)
    changed.output_stride = output_stride
    if getattr(config, "atrous_rates", None):
        changed.atrous_rates = [max(1, rate * own // output_stride) for rate in config.atrous_rates]
    try:
        built = type(model)(changed)
        built.load_state_dict(model.state_dict())
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{asked}: the weights of {type(model).__name__} do not fit another stride: {error}") from None
    found = _stride_of_encoder(built.eval())
    if found != output_stride:
        raise ValueError(
            f"{asked}: the encoder of {type(model).__name__} cannot have it, its last map is at stride {found}."
        )
    return built.to(next(model.parameters()).device)


@torch.no_grad()
def _stride_of_encoder(model: PreTrainedModel, side: int = 128) -> int:
    if isinstance(model, KASegModel):
        return model.encoder.reductions[-1]
    states = model(torch.zeros(1, model.config.num_channels, side, side), output_hidden_states=True).hidden_states
    return side // states[-1].shape[-1]
