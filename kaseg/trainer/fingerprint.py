"""What a run is made of, written into its checkpoints, so that no other run goes on from them unnoticed."""

import json
import logging
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer import OPTIMIZER_NAME, TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState

from kaseg.configuration_kaseg import ORIGIN_FIELDS
from kaseg.model_card.settings import changed_settings, public_settings, recipe_of
from kaseg.model_card.sources import TeacherSource

logger = logging.getLogger(__name__)

_MODEL = "model."  # before the fields of a model's config


class RecipeFingerprint(TrainerCallback, ExportableState):
    """Keeps the [`fingerprint`] of a run in `trainer_state.json` of its checkpoints."""

    def __init__(self, recipe: dict[str, Any] | None = None) -> None:
        self.recipe = recipe or {}

    def state(self) -> dict[str, Any]:
        return {"args": {"recipe": self.recipe}, "attributes": {}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A state that was read from a checkpoint without one would not take it later.
        state.stateful_callbacks[type(self).__name__] = self.state()


def fingerprint(args: Any, config: Any, train_dataset: Any, teacher: Any = None) -> dict[str, Any]:
    """The settings, model, training data (their number) and teacher (its name) of a run, as JSON holds them. Where
    things lie and how a run is watched is no part of it."""
    found = public_settings(recipe_of(args))
    described = config.to_dict() if hasattr(config, "to_dict") else {}
    found |= {f"{_MODEL}{name}": value for name, value in described.items() if name not in ORIGIN_FIELDS}
    if hasattr(train_dataset, "__len__"):
        found["training samples"] = len(train_dataset)
    if teacher is not None:
        found["teacher"] = TeacherSource.of(teacher).name
    return json.loads(json.dumps(found, default=lambda value: type(value).__name__))


def check_resume(folder: str | Path, own: dict[str, Any], was_named: bool, instead: str) -> None:
    """Makes sure that the run that wrote the `trainer_state.json` of a folder, a checkpoint or a finished first stage,
    is this one, and can be gone on with exactly.

    Args:
        own (`dict`): [`fingerprint`] of this run.
        was_named (`bool`): The user named this folder, so what is wrong is a warning and not an error.
        instead (`str`): For the error message: what to call to resume in spite of it.

    Raises:
        ValueError: it belongs to another recipe, or it has no optimizer state though steps are left.
    """
    folder = Path(folder)
    state = json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    kept = (state.get("stateful_callbacks") or {}).get(RecipeFingerprint.__name__)
    wrong = []
    if kept is None:
        logger.warning("%s does not say of which recipe it is (it was written by an older version of kaseg).", folder)
    elif changed := _changed(kept["args"]["recipe"], own):
        wrong.append(f"belongs to a run with another recipe; it differs in {changed}")
    is_finished = state.get("global_step", 0) >= state.get("max_steps", 0)
    if not is_finished and not (folder / OPTIMIZER_NAME).is_file():
        wrong.append(
            f"has no {OPTIMIZER_NAME} (save_only_model), so momentum and learning rate would start anew in the middle "
            "of the run"
        )
    if wrong and not was_named:
        raise ValueError(
            f"{folder} {', and it '.join(wrong)}. Choose another output_dir, remove that folder (kaseg train and "
            f"distill: --no-resume), or name it to go on from it all the same: {instead}."
        )
    for what in wrong:
        logger.warning("%s %s. It was named, so training goes on from it.", folder, what)


def _changed(written: dict[str, Any], own: dict[str, Any]) -> str:
    # Versions of kaseg and transformers may differ in the fields that a config has.
    one_sided = {name for name in written.keys() ^ own.keys() if name.startswith(_MODEL)}
    before, after = ({n: v for n, v in recipe.items() if n not in one_sided} for recipe in (written, own))
    return changed_settings(before, after)
