"""Trainers and their arguments."""

from __future__ import annotations

from .autoencoder_trainer import AutoencoderTrainer
from .knowledge_adaptation_config import KnowledgeAdaptationConfig
from .knowledge_adaptation_trainer import KnowledgeAdaptationTrainer
from .segmentation_config import SegmentationConfig
from .segmentation_trainer import SegmentationTrainer


__all__ = [
    "AutoencoderTrainer",
    "KnowledgeAdaptationConfig",
    "KnowledgeAdaptationTrainer",
    "SegmentationConfig",
    "SegmentationTrainer",
]
