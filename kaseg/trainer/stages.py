"""What comes before the student is trained: stages with arguments and a folder of their own."""

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn
from transformers.trainer import TRAINER_STATE_NAME

from kaseg.trainer.base import TermTrainer, share_buffers
from kaseg.trainer.fingerprint import check_resume
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
        optim_args=None,  # not those of the student's optimizer; SGD has its momentum by itself
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


class StageTrainer(TermTrainer):
    """A stage that learns from the frozen teacher; data and teacher are prepared, `args` are from
    [`stage_arguments`]."""

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module,
        args: KnowledgeAdaptationConfig,
        train_dataset: Any = None,
        data_collator: Any = None,
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=train_dataset, data_collator=data_collator)
        self.teacher = teacher
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False

    def train_unless_finished(self, trained: nn.Module, resume: bool, instead: str) -> bool:
        """Train to the end and save, unless a finished stage can be used; returns whether it was finished before.

        Args:
            trained (`nn.Module`): The module that the student's training reads; each process has its own copy.
            resume (`bool`): Go on with an unfinished stage, and leave a finished one as it is.
            instead (`str`): For the ValueError if that one was done by another recipe: what the user can do.
        """
        folder = Path(self.args.output_dir)
        if resume and is_finished(folder):
            check_resume(folder, self.fingerprint(), was_named=False, instead=instead)
            return True
        (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)  # what an earlier run left must not survive a restart
        self.train(resume_from_checkpoint=resume)
        share_buffers(trained)
        self.save_model()
        self.save_state()
        return False
