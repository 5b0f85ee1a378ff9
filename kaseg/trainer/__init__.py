"""Trainers and their arguments; imported on first use, since the arguments alone need much less than the trainers.

Each class adds one thing to the one before it:

- `transformers.Trainer` -> `PublishingTrainer` (`publishing.py`: uploads) -> `SearchingTrainer`
  (`hyperparameter_search.py`) -> `TermTrainer` (`base.py`: resume, loss terms in the logs);
- `TermTrainer` -> `ScoringTrainer` (`scoring.py`: evaluation) -> `SegmentationTrainer` -> `DistillationStep`
  (`distillation_step.py`: the loss) -> `KnowledgeAdaptationTrainer`;
- `TermTrainer` -> `StageTrainer` (`stages.py`) -> `AutoencoderTrainer`, `AdapterTrainer`.
"""

from typing import TYPE_CHECKING

from kaseg.lazy import import_on_use

if TYPE_CHECKING:
    from kaseg.trainer.autoencoder_trainer import AutoencoderTrainer as AutoencoderTrainer
    from kaseg.trainer.knowledge_adaptation_config import KnowledgeAdaptationConfig as KnowledgeAdaptationConfig
    from kaseg.trainer.knowledge_adaptation_trainer import KnowledgeAdaptationTrainer as KnowledgeAdaptationTrainer
    from kaseg.trainer.segmentation_config import SegmentationConfig as SegmentationConfig
    from kaseg.trainer.segmentation_trainer import SegmentationTrainer as SegmentationTrainer

__getattr__, __dir__, __all__ = import_on_use(
    __name__,
    {
        "autoencoder_trainer": ["AutoencoderTrainer"],
        "knowledge_adaptation_config": ["KnowledgeAdaptationConfig"],
        "knowledge_adaptation_trainer": ["KnowledgeAdaptationTrainer"],
        "segmentation_config": ["SegmentationConfig"],
        "segmentation_trainer": ["SegmentationTrainer"],
    },
)
