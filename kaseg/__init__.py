"""kaseg: knowledge adaptation for efficient semantic segmentation, the Hugging Face way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoImageProcessor, AutoModelForSemanticSegmentation
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES

from .checkpoints import checkpoint_path, list_models
from .configuration_kaseg import KASegConfig
from .image_processing_kaseg import KASegImageProcessor
from .modeling_kaseg import KASegModel
from .version import __version__ as __version__

if TYPE_CHECKING:
    from .export import KASegOnnxModel, KASegOpenVINOModel
    from .trainer import (
        KnowledgeAdaptationConfig,
        KnowledgeAdaptationTrainer,
        SegmentationConfig,
        SegmentationTrainer,
    )

KASegForSemanticSegmentation = KASegModel

AutoConfig.register(KASegConfig.model_type, KASegConfig, exist_ok=True)
AutoModelForSemanticSegmentation.register(KASegConfig, KASegModel, exist_ok=True)
AutoImageProcessor.register(KASegConfig, image_processor_classes={"torchvision": KASegImageProcessor}, exist_ok=True)
# pipeline("image-segmentation") asks this table, not the registrations, whether it knows a model.
MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES[KASegConfig.model_type] = KASegModel.__name__

_TRAINER_NAMES = (
    "KnowledgeAdaptationConfig",
    "KnowledgeAdaptationTrainer",
    "SegmentationConfig",
    "SegmentationTrainer",
)
_RUNTIME_NAMES = ("KASegOnnxModel", "KASegOpenVINOModel")


def __getattr__(name: str) -> Any:
    # Inference needs neither datasets nor accelerate, so the trainers are imported on first use.
    if name in _TRAINER_NAMES:
        from . import trainer

        return getattr(trainer, name)
    if name in _RUNTIME_NAMES:
        from . import export

        return getattr(export, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "KASegConfig",
    "KASegForSemanticSegmentation",
    "KASegImageProcessor",
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
