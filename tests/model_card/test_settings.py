from dataclasses import dataclass, field

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from kaseg import KnowledgeAdaptationConfig, SegmentationConfig
from kaseg.model_card.settings import loss_weights, public_settings, recipe_of


def test_only_what_differs(tmp_path) -> None:
    args = SegmentationConfig(output_dir=str(tmp_path), learning_rate=0.5, hub_token="hf_secret")
    assert recipe_of(args) == {"output_dir": str(tmp_path), "learning_rate": 0.5}


@pytest.mark.parametrize(
    "fields",
    [
        {"lr_scheduler_type": "cosine"},
        {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 1}},
        {"lr_scheduler_kwargs": {"power": 1.0}},
        {"optim": "adamw_torch", "num_train_epochs": 3},
    ],
)
def test_what_other_fields_fill_in_is_left_out(tmp_path, fields: dict) -> None:
    recipe = recipe_of(SegmentationConfig(output_dir=str(tmp_path), **fields))
    assert recipe == {"output_dir": str(tmp_path), **fields}
    assert recipe_of(SegmentationConfig(**recipe)) == recipe


@dataclass
class Owned(SegmentationConfig):
    """A user's arguments: nobody can be asked for a default."""

    owner: str = field(kw_only=True)
    note: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.note is None:
            raise ValueError("note is needed")


@pytest.mark.parametrize(
    "kind, fields",
    [
        (SegmentationConfig, {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 5}),
        (SegmentationConfig, {"lr_scheduler_type": "greedy", "eval_strategy": "epoch"}),
        (Owned, {"owner": "me", "note": "mine"}),
        (Owned, {"owner": "me", "note": "mine", "learning_rate": 0.5, "optim": "adamw_torch"}),
    ],
)
def test_arguments_whose_class_has_no_default_instance(tmp_path, kind, fields: dict) -> None:
    recipe = recipe_of(kind(output_dir=str(tmp_path), **fields))
    assert recipe == {"output_dir": str(tmp_path), **fields}


def test_public_settings_tell_nothing_of_the_machine() -> None:
    recipe = {"data_dir": "/home/me", "output_dir": "out", "logging_steps": 5, "hub_model_id": "me/x", "seed": 1}
    assert public_settings({**recipe, "push_to_hub": True}) == {"seed": 1}


def test_of_local_folders_only_the_name_is_public(tmp_path) -> None:
    recipe = {"teacher": str(tmp_path), "dataset": "camvid", "autoencoder": "kaseg/fitted"}
    assert public_settings(recipe) == {**recipe, "teacher": tmp_path.name}


def test_folders_of_another_machine_are_known_as_such() -> None:
    recipe = {"teacher": "/gone/teacher", "autoencoder": "gone/seed-2/autoencoder", "encoder_from": "google/deeplab"}
    shown = {**recipe, "teacher": "teacher", "autoencoder": "autoencoder"}
    assert public_settings(recipe) == public_settings({**recipe, "teacher": "../teacher"}) == shown


def test_comparing_with_the_defaults_leaves_accelerate_alone(tmp_path) -> None:
    """A trainer that is already there goes by this state; a card is written while it trains."""
    args = SegmentationConfig(output_dir=str(tmp_path), use_cpu=True)
    accelerator = Accelerator()
    before = dict(AcceleratorState._shared_state)
    recipe_of(args)
    assert AcceleratorState._shared_state == before and accelerator.device == args.device


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({}, {"cross_entropy": 1.0, "adaptation": 50.0, "affinity": 1.0}),
        ({"affinity_weight": 0.0, "loss": "dice"}, {"dice": 1.0, "adaptation": 50.0}),
        (
            {"adaptation_weight": 0.0, "affinity_weight": 0.0, "distillation_losses": {"hint": 2, "dist": 0}},
            {"cross_entropy": 1.0, "hint": 2.0},
        ),
    ],
)
def test_loss_weights(tmp_path, fields, expected) -> None:
    assert loss_weights(vars(KnowledgeAdaptationConfig(output_dir=str(tmp_path), use_cpu=True, **fields))) == expected
    assert loss_weights({"loss": "ohem"}) == {"ohem": 1.0}
