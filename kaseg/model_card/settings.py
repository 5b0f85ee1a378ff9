"""Settings of a run: those that differ from their defaults, and those of them that a card shows."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

# Fields that say where things lie, how a run is watched or where it is pushed; none of them makes it another run.
_PRIVATE = re.compile(
    r"output_dir|data_dir|backbone_weights|teacher_maps_dir|push_to_hub|hub_\w+|logging_\w+|log_\w+"
    r"|save_(steps|strategy|total_limit|only_model)|eval_(steps|strategy)|do_eval|dataloader_(?!drop_last|in_order)\w+"
    r"|use_cpu|torch_compile|torch_compile_backend|disable_tqdm|report_to|run_name|project|trackio_space_id|debug"
    r"|resume_from_checkpoint|skip_memory_metrics|ddp_timeout"
)
# Fields that may name a folder of this machine.
_NAMES = {"model", "encoder_from", "teacher", "autoencoder", "dataset", "label_space", "unlabelled_dir"}
# Fields that other fields fill in.
_DERIVED = {"max_steps", "optim_args", "lr_scheduler_kwargs", "do_eval", "metric_for_best_model", "greater_is_better"}
_NEVER_WRITTEN = {"hub_token", "accelerator_config", "parallelism_config"}
# The paper's own terms in KnowledgeAdaptationConfig and the fields that weigh them; distillation_losses has the others.
_TERMS = {"adaptation": "adaptation_weight", "affinity": "affinity_weight"}


def recipe_of(*parts: Any) -> dict[str, Any]:
    """Collects every field that differs from its default, across argument dataclasses: what a recipe file holds.

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
        # Choosing a device would reset accelerate's state, which a trainer that is already there goes by.
        deviceless = type(kind.__name__, (kind,), {"_setup_devices": torch.device("cpu")})
        try:
            instance = deviceless(**required, **{name: value for name, value in given.items() if name in names})
        except Exception:
            continue
        return declared | {name: getattr(instance, name) for name in names & declared.keys()}
    return declared


def public_settings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out of a recipe what is only of use on the machine that trained: folders, logging, where it was pushed. Of
    local files and folders only the name is left."""
    return {name: _shown(name, value) for name, value in recipe.items() if not _PRIVATE.fullmatch(name)}


def changed_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Names what differs between two recipes; empty if nothing does."""
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return ", ".join(f"{name} ({before.get(name)!r} -> {after.get(name)!r})" for name in changed)


def loss_weights(settings: Mapping[str, Any]) -> dict[str, float | str]:
    """The terms of the training loss and their weights: `{"cross_entropy": 1.0, "adaptation": 50.0, "dist": "auto"}`.

    `settings` holds fields of a trainer's config, defaults included. Terms of weight 0 are left out.
    """
    weights = {str(settings["loss"]): 1.0} | {term: settings.get(name) for term, name in _TERMS.items()}
    baselines = settings.get("distillation_losses") or {}
    weights |= {term: options["weight"] for term, options in baselines.items()}
    return {term: weight if isinstance(weight, str) else float(weight) for term, weight in weights.items() if weight}


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
