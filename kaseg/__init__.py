"""kaseg: knowledge adaptation for efficient semantic segmentation, the Hugging Face way.

Importing it is quick: its names import torch and transformers when they are first used.
"""

from typing import TYPE_CHECKING

from .auto_classes import register_auto_classes
from .checkpoints import checkpoint_path, list_models
from .lazy import import_on_use
from .version import __version__ as __version__

if TYPE_CHECKING:
    from .configuration_kaseg import KASegConfig as KASegConfig
    from .export import KASegLiteRTModel as KASegLiteRTModel
    from .export import KASegOnnxModel as KASegOnnxModel
    from .export import KASegOpenVINOModel as KASegOpenVINOModel
    from .image_processing_kaseg import KASegImageProcessor as KASegImageProcessor
    from .modeling_kaseg import KASegModel as KASegModel
    from .trainer import KnowledgeAdaptationConfig as KnowledgeAdaptationConfig
    from .trainer import KnowledgeAdaptationTrainer as KnowledgeAdaptationTrainer
    from .trainer import SegmentationConfig as SegmentationConfig
    from .trainer import SegmentationTrainer as SegmentationTrainer

    KASegForSemanticSegmentation = KASegModel

__getattr__, __dir__, __all__ = import_on_use(
    __name__,
    {
        "configuration_kaseg": ["KASegConfig"],
        "export": ["KASegLiteRTModel", "KASegOnnxModel", "KASegOpenVINOModel"],
        "image_processing_kaseg": ["KASegImageProcessor"],
        "modeling_kaseg": ["KASegModel"],
        "trainer": [
            "KnowledgeAdaptationConfig",
            "KnowledgeAdaptationTrainer",
            "SegmentationConfig",
            "SegmentationTrainer",
        ],
    },
    aliases={"KASegForSemanticSegmentation": "KASegModel"},
)
__all__ += ["checkpoint_path", "list_models"]

register_auto_classes()
