"""Trainers and their arguments."""

from __future__ import annotations

from kaseg.trainer.autoencoder_trainer import AutoencoderTrainer
from kaseg.trainer.knowledge_adaptation_config import KnowledgeAdaptationConfig
from kaseg.trainer.knowledge_adaptation_trainer import KnowledgeAdaptationTrainer
from kaseg.trainer.segmentation_config import SegmentationConfig
from kaseg.trainer.segmentation_trainer import SegmentationTrainer

__all__ = [
    "AutoencoderTrainer",
    "KnowledgeAdaptationConfig",
    "KnowledgeAdaptationTrainer",
    "SegmentationConfig",
    "SegmentationTrainer",
]
