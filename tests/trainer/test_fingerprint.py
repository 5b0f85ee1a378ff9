import json
from pathlib import Path

import pytest
from toy import ka_trainer, make_dataset, make_model, make_teacher, seg_trainer

from kaseg import KnowledgeAdaptationTrainer, SegmentationTrainer

SAVED = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "save_total_limit": None}


def plain(output_dir, model=None, samples: int = 12, **fields) -> SegmentationTrainer:
    return seg_trainer(output_dir, model, make_dataset(samples), **{**SAVED, **fields})


def distillation(output_dir, teacher=None, **fields) -> KnowledgeAdaptationTrainer:
    return ka_trainer(output_dir, teacher=teacher, **{**SAVED, "max_steps": 1, "autoencoder_max_steps": 1, **fields})


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A plain run, stopped after checkpoint-1."""
    folder = tmp_path_factory.mktemp("run")
    plain(folder).train()
    (folder / "checkpoint-2").rename(folder / "end")
    return folder


@pytest.mark.parametrize(
    "others, said",
    [
        ({"learning_rate": 0.02}, r"learning_rate \(0.01 -> 0.02\)"),
        ({"max_steps": 6}, r"max_steps \(2 -> 6\)"),
        ({"min_scale": 0.7}, r"min_scale \(None -> 0.7\)"),
        ({"samples": 11}, r"training samples \(12 -> 11\)"),
        ({"model": make_model(classifier_dropout_prob=0.3)}, r"model.classifier_dropout_prob \(0.1 -> 0.3\)"),
        ({"model": make_model(num_labels=3)}, r"model.id2label"),
    ],
)
def test_a_checkpoint_of_another_recipe_is_not_resumed(done: Path, others: dict, said: str) -> None:
    trainer = plain(done, **others)
    with pytest.raises(ValueError, match=said) as error:
        trainer.train(resume_from_checkpoint=True)
    assert "checkpoint-1" in str(error.value) and "another output_dir" in str(error.value)
    assert trainer.state.global_step == 0


def test_where_it_lies_and_how_it_is_watched_makes_no_other_recipe(done: Path, tmp_path) -> None:
    (tmp_path / "moved").symlink_to(done)
    trainer = plain(tmp_path / "moved", logging_steps=2, save_strategy="no")
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 2 and len(trainer.state.log_history) > 2


def test_one_that_is_named_is_resumed_with_a_warning(done: Path, tmp_path, caplog) -> None:
    trainer = plain(tmp_path, max_steps=3, learning_rate=0.02)
    trainer.train(resume_from_checkpoint=str(done / "checkpoint-1"))
    assert trainer.state.global_step == 3
    assert "another recipe; it differs in learning_rate (0.01 -> 0.02), max_steps (2 -> 3)" in caplog.text


def test_one_of_an_older_version_is_resumed_with_a_warning(done: Path, caplog) -> None:
    state = done / "checkpoint-1/trainer_state.json"
    written = state.read_text()
    old = json.loads(written)
    del old["stateful_callbacks"]["RecipeFingerprint"]
    state.write_text(json.dumps(old))
    try:
        trainer = plain(done)
        trainer.train(resume_from_checkpoint=True)
    finally:
        state.write_text(written)
    assert trainer.state.global_step == 2
    assert "does not say of which recipe it is" in caplog.text
    new = json.loads((done / "checkpoint-2/trainer_state.json").read_text())
    assert new["stateful_callbacks"]["RecipeFingerprint"]["args"]["recipe"]["learning_rate"] == 0.01


def test_one_without_optimizer_state_is_only_resumed_by_name(tmp_path, caplog) -> None:
    plain(tmp_path, save_only_model=True).train()
    plain(tmp_path, save_only_model=True).train(resume_from_checkpoint=True)  # nothing is left to train
    (tmp_path / "checkpoint-2").rename(tmp_path / "end")
    with pytest.raises(ValueError, match=r"checkpoint-1 has no optimizer.pt \(save_only_model\)"):
        plain(tmp_path).train(resume_from_checkpoint=True)
    trainer = plain(tmp_path)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert trainer.state.global_step == 2 and "learning rate would start anew" in caplog.text


@pytest.mark.parametrize("stopped_in", ["autoencoder", "distillation"])
def test_neither_stage_goes_on_from_another_recipe_or_teacher(tmp_path, stopped_in: str) -> None:
    first = distillation(tmp_path)
    first.fit_autoencoder() if stopped_in == "autoencoder" else first.train()
    teacher = make_teacher(8)
    teacher.config.name_or_path = "me/other"
    others = {
        r"sparsity_weight": {"sparsity_weight": 0.5},
        r"distillation_losses": {"distillation_losses": {"hint": 1.0}},
        r"teacher \('KASegModel' -> 'me/other'\)": {"teacher": teacher},
    }
    for said, other in others.items():
        with pytest.raises(ValueError, match=said) as error:
            distillation(tmp_path, **other).train(resume_from_checkpoint=True)
        assert "autoencoder=" in str(error.value)
