from typing import Any

import pytest
import torch
from toy import FIRST_STAGE, SIZE, arguments, copy_state, make_dataset, make_model, make_teacher, states_equal

from kaseg import KnowledgeAdaptationConfig, KnowledgeAdaptationTrainer, SegmentationConfig, SegmentationTrainer

pytest.importorskip("optuna")


class Made:
    """A model_init that keeps what it makes."""

    def __init__(self, **fields: Any) -> None:
        self.fields, self.models = fields, []

    def __call__(self) -> Any:
        self.models.append(make_model(**self.fields))
        return self.models[-1]


def plain(output_dir, model_init: Any = lambda: make_model(), **fields) -> SegmentationTrainer:
    args = SegmentationConfig(**arguments(output_dir, max_steps=1, **fields))
    data = make_dataset(4)
    return SegmentationTrainer(args=args, train_dataset=data, eval_dataset=data, model_init=model_init)


def distillation(output_dir, model_init: Any = lambda: make_model(), **fields) -> KnowledgeAdaptationTrainer:
    args = KnowledgeAdaptationConfig(**arguments(output_dir, max_steps=1, **FIRST_STAGE, **fields))
    data = make_dataset(4)
    return KnowledgeAdaptationTrainer(
        teacher=make_teacher(), args=args, train_dataset=data, eval_dataset=data, model_init=model_init
    )


def search(trainer: Any, grid: dict[str, list[Any]], **options: Any) -> Any:
    import optuna

    def space(trial: Any) -> dict[str, Any]:
        return {name: trial.suggest_categorical(name, values) for name, values in grid.items()}

    trials = max(map(len, grid.values()))
    return trainer.hyperparameter_search(space, n_trials=trials, sampler=optuna.samplers.GridSampler(grid), **options)


def test_a_plain_search_trains_a_new_model_in_each_trial(tmp_path) -> None:
    made = Made()
    trainer = plain(tmp_path, made, lr_scheduler_type="constant", lr_scheduler_kwargs={})
    scores: list[float] = []

    def counted(metrics: dict[str, float]) -> float:
        scores.append(metrics["eval_mean_iou"])
        return scores[-1]

    best = search(trainer, {"learning_rate": [0.0, 0.5]}, compute_objective=counted)
    assert best.objective == max(scores) and len(scores) == 2
    assert best.hyperparameters["learning_rate"] in (0.0, 0.5)
    start, tuned = [copy_state(model) for model in made.models[-2:]]
    assert not states_equal(start, tuned)
    trainer.args.learning_rate = 0.0
    trainer.args.crop_size = [SIZE * 2, SIZE * 2]
    trainer.train()
    assert trainer.train_dataset[0]["labels"].shape == (2 * SIZE, 2 * SIZE), "transforms follow the arguments"
    weights = dict(make_model().named_parameters())
    assert all(torch.equal(weights[name], value) for name, value in trainer.model.named_parameters())
    assert trainer.model_card is not None and trainer.model_card.model is trainer.model


def test_a_distilling_search_keeps_teacher_and_autoencoder(tmp_path, monkeypatch) -> None:
    made = Made()
    trainer = distillation(tmp_path, made)
    fitted: list[Any] = []
    fit = trainer.fit_autoencoder
    monkeypatch.setattr(trainer, "fit_autoencoder", lambda resume: fitted.append(fit(resume)) or fitted[-1])
    weights: list[dict[str, float]] = []
    compute = trainer.compute_loss

    def seen(*args: Any, **kwargs: Any) -> Any:
        weights.append({name: term.weight for name, term in trainer.model.terms.items()})
        return compute(*args, **kwargs)

    monkeypatch.setattr(trainer, "compute_loss", seen)
    best = search(trainer, {"adaptation_weight": [0.0, 7.0]})
    assert 0 <= best.objective <= 1
    assert len(fitted) == 1 and trainer.autoencoder is fitted[0]
    found = sorted(weights, key=len)
    assert found == [{"affinity": 1.0}, {"adaptation": 7.0, "affinity": 1.0}], "each trial has the terms of its weights"
    before = copy_state(trainer.autoencoder)
    trainer.train()
    assert len(fitted) == 1 and states_equal(before, copy_state(trainer.autoencoder))
    assert trainer.model.student is made.models[-1]


@pytest.mark.parametrize(
    "name, values, said",
    [
        ("learning_rat", [1.0], "has no field 'learning_rat'. Did you mean 'learning_rate'"),
        ("latent_channels", [4, 8], "cannot differ in latent_channels"),
        ("teacher_scale", [1.0, 2.0], "cannot differ in teacher_scale"),
        ("eval_size", [16], "cannot differ in eval_size"),
        ("optim", ["adamw_torch"], "cannot differ in optim"),
        ("num_train_epochs", [1.0], "changes nothing beside max_steps"),
        ("min_scale", [3.0], "min_scale <= max_scale"),
    ],
)
def test_what_would_change_nothing_is_refused(tmp_path, name, values, said) -> None:
    trainer = distillation(tmp_path, adaptation_weight=0.0, affinity_weight=0.0)
    with pytest.raises(ValueError, match=said):
        search(trainer, {name: values})


def test_what_a_search_needs(tmp_path) -> None:
    args = SegmentationConfig(**arguments(tmp_path))
    with pytest.raises(ValueError, match="give the trainer model_init="):
        SegmentationTrainer(make_model(), args, eval_dataset=make_dataset(4)).hyperparameter_search(dict)
    with pytest.raises(ValueError, match="hp_space is missing"):
        plain(tmp_path).hyperparameter_search()
    with pytest.raises(ValueError, match="not 'ray'"):
        plain(tmp_path).hyperparameter_search(dict, backend="ray")
    for options in ({"model": make_model(), "model_init": lambda: make_model()}, {}):
        with pytest.raises(ValueError, match="one of the two"):
            SegmentationTrainer(args=args, **options)
    changing = iter([make_model(), make_model(num_labels=3)])
    with pytest.raises(ValueError, match="a model of 3 classes, after one of 2"):
        plain(tmp_path, lambda: next(changing)).train()
    strides = iter([make_model(), make_model(output_stride=32)])
    with pytest.raises(ValueError, match="of stride 32, after one of 16"):
        distillation(tmp_path, lambda: next(strides), adaptation_weight=0.0, affinity_weight=0.0).train()


def test_losses_may_be_given_in_their_short_form(tmp_path) -> None:
    trainer = distillation(tmp_path, adaptation_weight=0, affinity_weight=0, distillation_losses={"hint": 1.0})
    trainer.args.distillation_losses = {"dist": 2.0}
    trainer.train()
    assert {name: term.weight for name, term in trainer.model.terms.items()} == {"dist": 2.0}
    trainer.args.distillation_losses = {"nonsense": 2.0}
    with pytest.raises(ValueError, match="unknown loss 'nonsense'"):
        trainer.train()


def test_a_term_whose_maps_were_not_kept_is_refused(tmp_path) -> None:
    fields = {"teacher_view": "image", "affinity_weight": 0, "distillation_losses": {"knowledge_distillation": 1.0}}
    trainer = distillation(tmp_path, adaptation_weight=0, **fields)
    trainer.args.adaptation_weight = 5.0
    with pytest.raises(ValueError, match=r"keeps the maps .*\(logits\), but now they read features, logits"):
        trainer.train()


@pytest.mark.parametrize("loss", ["dice", "ohem"])
def test_the_labels_loss_is_logged_by_its_name(tmp_path, loss: str) -> None:
    trainer = distillation(tmp_path, loss=loss, adaptation_weight=0, logging_steps=1)
    trainer.train()
    logged = {name for entry in trainer.state.log_history for name in entry}
    assert f"distillation/{loss}" in logged and "distillation/cross_entropy" not in logged
