"""Settings of a run: those that differ from their defaults, and what of them concerns others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

# Fields that say where things lie or how a run is watched; changing them does not make it another run.
PLACES = {"output_dir", "data_dir", "backbone_weights", "teacher_maps_dir"}
WATCHING = {
    "logging_steps",
    "logging_strategy",
    "logging_first_step",
    "save_steps",
    "save_strategy",
    "save_total_limit",
    "eval_steps",
    "eval_strategy",
    "do_eval",
    "use_cpu",
    "disable_tqdm",
    "report_to",
    "dataloader_num_workers",
    "torch_compile",
    "torch_compile_backend",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context",
    "logging_nan_inf_filter",
    "resume_from_checkpoint",
    "log_level",
    "log_level_replica",
    "log_on_each_node",
    "run_name",
    "project",
    "trackio_space_id",
    "skip_memory_metrics",
    "ddp_timeout",
    "save_only_model",
    "debug",
}
# Fields that may name a folder of this machine.
_NAMES = {"model", "encoder_from", "teacher", "autoencoder", "dataset", "label_space", "unlabelled_dir"}
# Fields that other fields fill in.
_DERIVED = {
    "max_steps",
    "optim_args",
    "lr_scheduler_kwargs",
    "do_eval",
    "metric_for_best_model",
    "greater_is_better",
}
_NEVER_WRITTEN = {"hub_token", "accelerator_config", "parallelism_config"}
# The paper's own terms in KnowledgeAdaptationConfig and the fields that weigh them; distillation_losses has the others.
_TERMS = {"adaptation": "adaptation_weight", "affinity": "affinity_weight"}


def recipe_of(*parts: Any) -> dict[str, Any]:
    """Every field that differs from its default, across argument dataclasses: what a recipe file holds.

    Secrets (`hub_token`) and objects that a recipe cannot hold are left out.
    """
    recipe: dict[str, Any] = {}
    for part in parts:
        # Several fields are filled in by __post_init__, so default instances are what to compare with.
        default = derived = _defaults(part)
        if isinstance(part, TrainingArguments):
            # Some schedulers are refused without evaluations.
            chosen = ("num_train_epochs", "optim", "lr_scheduler_type", "eval_strategy", "eval_steps")
            derived = _defaults(part, **{name: getattr(part, name) for name in chosen})
        for item in dataclasses.fields(part):
            value = getattr(part, item.name)
            if not item.init or item.name.startswith("_") or item.name in _NEVER_WRITTEN:
                continue
            if item.name in default and value == default[item.name]:
                continue
            if item.name not in _DERIVED or value != derived.get(item.name):
                recipe[item.name] = _plain(value)
    return recipe


def _defaults(part: Any, **given: Any) -> dict[str, Any]:
    """Fields of a dataclass by name, where nothing but `given` is given; those that must be given are left out.

    A subclass may refuse to be without what its user knows; then its fields have the defaults that they are declared
    with, and the others those of the class that it is made from.
    """
    declared: dict[str, Any] = {}
    for item in dataclasses.fields(part):
        if item.default is not dataclasses.MISSING:
            declared[item.name] = item.default
        elif item.default_factory is not dataclasses.MISSING:
            declared[item.name] = item.default_factory()
    for kind in type(part).__mro__:
        if not dataclasses.is_dataclass(kind):
            continue
        names = {item.name for item in dataclasses.fields(kind) if item.init}
        required = {name: getattr(part, name) for name in names - declared.keys()}
        try:
            instance = _bystander(kind)(**required, **{name: value for name, value in given.items() if name in names})
        except Exception:
            continue
        return declared | {name: getattr(instance, name) for name in names & declared.keys()}
    return declared


def public_settings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe without what is only of use on the machine that trained: places, logging, where it was pushed. Of local
    files and folders only the name is left."""
    hidden = PLACES | WATCHING | {"push_to_hub"}
    return {k: _shown(k, v) for k, v in recipe.items() if k not in hidden and not k.startswith("hub_")}


def changed_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What differs between two recipes, in words; empty if nothing does."""
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return ", ".join(f"{name} ({before.get(name)!r} -> {after.get(name)!r})" for name in changed)


def loss_weights(settings: Mapping[str, Any]) -> dict[str, float | str]:
    """The terms of the training loss and their weights: `{"cross_entropy": 1.0, "adaptation": 50.0, "dist": "auto"}`.

    Args:
        settings: Fields of a [`~kaseg.trainer.SegmentationConfig`] or [`~kaseg.trainer.KnowledgeAdaptationConfig`] by
            name, defaults included. Terms of weight 0 are left out.
    """
    rivals = settings.get("distillation_losses") or {}
    weights = {str(settings["loss"]): 1.0} | {term: settings.get(name) for term, name in _TERMS.items()}
    weights |= {term: options["weight"] for term, options in rivals.items()}
    return {term: weight if isinstance(weight, str) else float(weight) for term, weight in weights.items() if weight}


def _bystander(part: type) -> type:
    """The same dataclass; training arguments among them do not choose a device when they are made.

    Choosing one resets accelerate's state, which a trainer that is already there goes by.
    """
    return type(part.__name__, (part,), {"_setup_devices": torch.device("cpu")})


def _shown(name: str, value: Any) -> Any:
    if name not in _NAMES or not isinstance(value, str):
        return value
    path = Path(value)
    # A folder of another machine is not there, but is none the less a folder; a Hub id has one slash, and is relative.
    is_local = path.is_absolute() or value.startswith((".", "~")) or value.count("/") > 1 or path.exists()
    return path.resolve().name if is_local else value


def _plain(value: Any) -> Any:
    """Enum members and containers as YAML can hold them."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return getattr(value, "value", value)
