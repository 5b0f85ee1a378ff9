"""kaseg: knowledge adaptation for efficient semantic segmentation, the Hugging Face way.

Importing it is quick: its names import torch and transformers when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .auto_classes import register_auto_classes
from .checkpoints import checkpoint_path, list_models
from .lazy import import_on_use
from .version import __version__ as __version__

if TYPE_CHECKING:
    from .configuration_kaseg import KASegConfig
    from .export import KASegLiteRTModel, KASegOnnxModel, KASegOpenVINOModel
    from .image_processing_kaseg import KASegImageProcessor
    from .modeling_kaseg import KASegModel
    from .modeling_kaseg import KASegModel as KASegForSemanticSegmentation
    from .trainer import KnowledgeAdaptationConfig, KnowledgeAdaptationTrainer, SegmentationConfig, SegmentationTrainer

__getattr__, __dir__ = import_on_use(
    __name__,
    {
        "KASegConfig": "configuration_kaseg",
        "KASegImageProcessor": "image_processing_kaseg",
        "KASegModel": "modeling_kaseg",
        "KASegLiteRTModel": "export",
        "KASegOnnxModel": "export",
        "KASegOpenVINOModel": "export",
        "KnowledgeAdaptationConfig": "trainer",
        "KnowledgeAdaptationTrainer": "trainer",
        "SegmentationConfig": "trainer",
        "SegmentationTrainer": "trainer",
    },
    aliases={"KASegForSemanticSegmentation": "KASegModel"},
)

register_auto_classes()

__all__ = [
    "KASegConfig",
    "KASegForSemanticSegmentation",
    "KASegImageProcessor",
    "KASegLiteRTModel",
    "KASegModel",
    "KASegOnnxModel",
    "KASegOpenVINOModel",
    "KnowledgeAdaptationConfig",
    "KnowledgeAdaptationTrainer",
    "SegmentationConfig",
    "SegmentationTrainer",
    "checkpoint_path",
    "list_models",
]
