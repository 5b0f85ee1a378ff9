"""What comes before the student is trained: stages with arguments and a folder of their own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME

from kaseg.trainer.knowledge_adaptation_config import KnowledgeAdaptationConfig
from kaseg.trainer.segmentation_config import OF_ADAM, POLY


def stage_arguments(
    args: KnowledgeAdaptationConfig, name: str, steps: int, optim: str, learning_rate: float, weight_decay: float
) -> KnowledgeAdaptationConfig:
    """Arguments of a stage: those of distillation, in `output_dir/name`, without push, evaluation or average."""
    changes: dict[str, Any] = dict(
        output_dir=str(stage_folder(args, name)),
        max_steps=max(1, steps),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        optim=optim,
        optim_args="momentum=0.9" if optim == "sgd" else None,
        lr_scheduler_type="polynomial",
        lr_scheduler_kwargs=dict(POLY),
        warmup_steps=0,
        eval_strategy="no",
        eval_on_start=False,
        load_best_model_at_end=False,
        ema_decay=None,
        # A few hundred steps do not repay a compilation. (A backend alone would turn it on again.)
        torch_compile=False,
        torch_compile_backend=None,
        torch_compile_mode=None,
        push_to_hub=False,
        hub_model_id=None,
        deepspeed=None,
    )
    if optim == "sgd":  # which would refuse what the student's Adam was given
        changes |= {name: getattr(KnowledgeAdaptationConfig, name) for name in OF_ADAM}
    return dataclasses.replace(args, **changes)


def stage_folder(args: KnowledgeAdaptationConfig, name: str) -> Path:
    """Where a stage writes."""
    return Path(args.output_dir) / name


def is_finished(folder: Path) -> bool:
    """Whether a stage was done to its end: its `trainer_state.json` is written last."""
    return (folder / TRAINER_STATE_NAME).is_file()


def begin(folder: Path) -> None:
    """Mark a stage as not finished: what an earlier run left must not survive a restart."""
    (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
