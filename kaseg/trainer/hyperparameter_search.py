"""What a hyper-parameter search may vary, and what it goes by."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import set_seed
from transformers.trainer_utils import number_of_arguments

from kaseg.close_names import did_you_mean
from kaseg.trainer.publishing import PublishingTrainer

# Filled in from other fields when arguments are made, so that a trial would have to set them, too.
_TOGETHER = {"optim", "optim_args", "lr_scheduler_type", "lr_scheduler_kwargs"}
# Read once, before the first trial.
_FIXED = {"output_dir", "bf16", "fp16", "sync_batch_norm"}
# What all trials are scored and kept by.
_WATCHING = ("eval_", "save_", "hub_", "push_")

# Prefixes of fields of KnowledgeAdaptationConfig that belong to the teacher and the stages before the student's.
FIRST_STAGES = ("teacher_", "student_tap", "use_autoencoder", "latent_channels", "sparsity_weight", "autoencoder_")


def initial_model(model: nn.Module | None, model_init: Any, args: Any) -> nn.Module:
    """The model, or the first one that `model_init` makes; a ValueError if both are given, or neither."""
    if (model is None) == (model_init is None):
        raise ValueError("Give the trainer model, or model_init, a function that makes one: one of the two.")
    if model is not None:
        return model
    set_seed(args.seed)
    return model_init(None) if number_of_arguments(model_init) else model_init()


class SearchingTrainer(PublishingTrainer):
    """A trainer whose `hyperparameter_search` (with optuna) goes by the mean IoU and refuses what it cannot vary."""

    # Prefixes of fields that belong to what all trials share.
    shared_by_trials: tuple[str, ...] = ()

    def hyperparameter_search(
        self,
        hp_space: Any = None,
        compute_objective: Any = None,
        n_trials: int = 20,
        direction: str | list[str] = "maximize",
        backend: Any = None,
        hp_name: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Train `n_trials` models that `model_init` makes, and return the best trial.

        As in `transformers.Trainer`, but for `compute_objective`, which is the mean IoU of the evaluation by default,
        `direction`, which is `"maximize"`, and `hp_space`, which has to be given: see the docs on distillation.

        Raises:
            ImportError: optuna is not installed.
            ValueError: there is no `model_init`, `hp_space` or `eval_dataset`, another backend, or, in a trial, a field
                that does not exist or that trials cannot differ in.
        """
        if self.model_init is None:
            raise ValueError(
                "A search trains a new model in each trial: give the trainer model_init=, a function that makes one, "
                "in place of model=."
            )
        if hp_space is None or self.eval_dataset is None:
            missing = "hp_space" if hp_space is None else "eval_dataset"
            raise ValueError(f"A search needs an hp_space and a trainer with an eval_dataset; {missing} is missing.")
        if backend not in (None, "optuna"):
            raise ValueError(f"The search runs with backend='optuna', not {backend!r}.")
        self._prepare_training(None)  # with the arguments that are not a trial's
        return super().hyperparameter_search(
            hp_space, compute_objective or _mean_iou, n_trials, direction, "optuna", hp_name, **kwargs
        )

    def _prepare_training(self, resume_from_checkpoint: str | bool | None) -> None:
        """What comes before the first step."""

    def _hp_search_setup(self, trial: Any) -> None:
        if trial is not None and self.hp_search_backend is not None:
            self._check_space(self.hp_space(trial))
        super()._hp_search_setup(trial)

    def _check_space(self, chosen: Mapping[str, Any]) -> None:
        known = {item.name for item in dataclasses.fields(self.args)}
        for name in chosen:
            if name not in known:
                hint = did_you_mean(name, sorted(known), cutoff=0.7)
                raise ValueError(f"hp_space: {type(self.args).__name__} has no field {name!r}.{hint}")
        if refused := sorted(name for name in chosen if self._is_fixed(name)):
            raise ValueError(
                f"hp_space: trials cannot differ in {', '.join(refused)}; make a search of its own for each value."
            )
        if "num_train_epochs" in chosen and self.args.max_steps > 0:
            raise ValueError("hp_space: num_train_epochs changes nothing beside max_steps; vary max_steps.")

    def _is_fixed(self, name: str) -> bool:
        return name in _TOGETHER | _FIXED or name.startswith(_WATCHING + self.shared_by_trials)


def _mean_iou(metrics: Mapping[str, float]) -> float:
    if "eval_mean_iou" not in metrics:
        raise ValueError(
            f"There is no eval_mean_iou among {', '.join(metrics)}: with several eval_datasets, say with "
            "compute_objective which of their scores counts."
        )
    return metrics["eval_mean_iou"]
