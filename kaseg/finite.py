"""Checks for NaN and infinite weights: such models are neither scored nor saved nor published."""

import itertools

import torch
from torch import nn


class NotFiniteError(ValueError):
    """A loss, a gradient or a weight is NaN or infinite."""


def require_finite(module: nn.Module, what: str) -> None:
    """Checks all parameters and statistics of BatchNorm of `module`, which messages call `what`; a NotFiniteError that
    names the tensor if a number is NaN or infinite."""
    statistics = ((k, v) for k, v in module.named_buffers() if k.endswith(("running_mean", "running_var")))
    tensors = {
        k: v.detach() for k, v in itertools.chain(module.named_parameters(), statistics) if v.is_floating_point()
    }
    require_finite_tensors(tensors, what)


def require_finite_tensors(tensors: dict[str, torch.Tensor], what: str) -> None:
    """Checks tensors by name as [`require_finite`] does."""
    kept = {name: tensor for name, tensor in tensors.items() if tensor.device.type != "meta"}
    if not kept:
        return
    # One answer for all of them, so that a GPU is waited for once.
    device = next(iter(kept.values())).device
    flags = torch.stack([tensor.isfinite().all().to(device) for tensor in kept.values()]).tolist()
    bad = [name for name, is_finite in zip(kept, flags, strict=True) if not is_finite]
    if bad:
        raise NotFiniteError(
            f"{what} is not finite: {len(bad)} of its {len(kept)} tensors hold NaN or infinite numbers ({bad[0]}). "
            "Whatever it predicts means nothing, so it is neither scored nor saved nor published. Take an earlier "
            "checkpoint, or train again with a lower learning_rate."
        )
