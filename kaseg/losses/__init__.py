"""Training losses on logits; each normalizes over the pixels that carry a label."""

from collections.abc import Sequence

from torch import nn

from kaseg.losses.cross_entropy import CrossEntropyLoss
from kaseg.losses.dice import DiceLoss
from kaseg.losses.ohem import OhemCrossEntropyLoss

LOSSES = ("cross_entropy", "ohem", "dice")


def build_loss(name: str, class_weights: Sequence[float] | None = None) -> nn.Module:
    """The training loss called `name` (one of `LOSSES`); only cross-entropy and OHEM take class weights.

    Raises:
        ValueError: unknown name, or class weights for Dice.
    """
    if name == "cross_entropy":
        return CrossEntropyLoss(class_weights)
    if name == "ohem":
        return OhemCrossEntropyLoss(class_weights=class_weights)
    if name == "dice":
        if class_weights is not None:
            raise ValueError("Dice weighs all classes alike; class_weights go with loss='cross_entropy' or 'ohem'.")
        return DiceLoss()
    raise ValueError(f"loss must be one of {LOSSES}, got {name!r}.")


__all__ = ["LOSSES", "CrossEntropyLoss", "DiceLoss", "OhemCrossEntropyLoss", "build_loss"]
