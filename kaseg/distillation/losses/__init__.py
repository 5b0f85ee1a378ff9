"""Losses of knowledge adaptation, one file each."""

from __future__ import annotations

from kaseg.distillation.losses.adaptation import AdaptationLoss
from kaseg.distillation.losses.affinity import AffinityLoss

__all__ = ["AdaptationLoss", "AffinityLoss"]
