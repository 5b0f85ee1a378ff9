import numpy as np
import pytest
import torch
from toy import (
    ALONE,
    BEST,
    arguments,
    copy_state,
    ka_trainer,
    make_dataset,
    make_model,
    seg_trainer,
    split,
    states_equal,
)
from transformers import TrainerCallback

from kaseg import KASegModel, SegmentationConfig, SegmentationTrainer
from kaseg.trainer.ema import WeightAverageCallback


def _trainer(output_dir, distils: bool = False, **fields) -> SegmentationTrainer:
    fields = {"ema_decay": 0.3, "learning_rate": 0.02, **fields}
    if distils:
        return ka_trainer(output_dir, **ALONE, distillation_losses={"hint": 1.0}, **fields)
    return seg_trainer(output_dir, **fields)


class Recorder(TrainerCallback):
    """Keeps the trained network's state after every step."""

    def __init__(self, trainer: SegmentationTrainer) -> None:
        self.trainer, self.states = trainer, []

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.states.append(copy_state(self.trainer.student))


@pytest.mark.parametrize(("distils", "accumulation"), [(False, 1), (True, 2)])
def test_it_is_the_average_of_the_formula(tmp_path, distils: bool, accumulation: int) -> None:
    trainer = _trainer(tmp_path, distils, max_steps=6, **split(2, accumulation))
    recorder = Recorder(trainer)
    trainer.add_callback(recorder)
    trainer.train()
    average = trainer.segmentation_model.state_dict()
    assert len(recorder.states) == 6 and average.keys() == recorder.states[0].keys()
    for name, found in average.items():
        expected = recorder.states[0][name].double().numpy()
        for step, state in enumerate(recorder.states, 1):
            decay = min(0.3, (step - 1) / (step + 9))
            expected = decay * expected + (1 - decay) * state[name].double().numpy()
        if found.is_floating_point():
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
        else:
            assert torch.equal(found, recorder.states[-1][name])
    assert not states_equal(average, trainer.student.state_dict())
    assert any("running_mean" in n and not torch.equal(t, trainer.student.state_dict()[n]) for n, t in average.items())


@pytest.mark.parametrize("distils", [False, True])
def test_it_is_evaluated_saved_and_named_and_training_is_as_without_it(tmp_path, distils: bool) -> None:
    trainer = _trainer(tmp_path / "a", distils, max_steps=2)
    without = _trainer(tmp_path / "b", distils, max_steps=2, ema_decay=None)
    for each in (trainer, without):
        each.train()
    assert states_equal(trainer.student.state_dict(), without.student.state_dict())
    trainer.save_model()
    saved = KASegModel.from_pretrained(tmp_path / "a")
    assert states_equal(saved.state_dict(), trainer.average.module.state_dict())
    scorer = SegmentationTrainer(saved, SegmentationConfig(**arguments(tmp_path / "c")))
    found = scorer.evaluate(trainer.eval_dataset)["eval_loss"]
    # Loaded weights lie elsewhere in memory, which decides by what kernel a map of one position is convolved.
    assert trainer.evaluate()["eval_loss"] == pytest.approx(found, rel=1e-6)
    assert without.evaluate()["eval_loss"] != pytest.approx(found, rel=1e-5)
    trainer.create_model_card()
    assert "moving average of the weights" in (tmp_path / "a/README.md").read_text()
    without.create_model_card()
    assert "moving average" not in (tmp_path / "b/README.md").read_text()


def test_a_later_training_without_one_has_none(tmp_path) -> None:
    data = make_dataset()
    args = SegmentationConfig(**arguments(tmp_path, ema_decay=0.3, max_steps=2))
    trainer = SegmentationTrainer(args=args, train_dataset=data, eval_dataset=data, model_init=lambda: make_model())
    trainer.train()
    assert trainer.average is not None
    args.ema_decay = None
    trainer.train()
    assert trainer.average is None and trainer.segmentation_model is trainer.student
    assert trainer.model_card.model is trainer.student
    assert not any(isinstance(callback, WeightAverageCallback) for callback in trainer.callback_handler.callbacks)


def test_the_best_checkpoint_is_an_average(tmp_path) -> None:
    trainer = _trainer(tmp_path, **BEST)
    trainer.train()
    evaluated = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(evaluated), rel=1e-5)
    stored = KASegModel.from_pretrained(trainer.state.best_model_checkpoint)
    assert states_equal(trainer.segmentation_model.state_dict(), stored.state_dict())


@pytest.mark.parametrize(("before", "after"), [(0.3, None), (None, 0.3)])
def test_a_run_goes_on_only_as_it_was_begun(tmp_path, before, after) -> None:
    _trainer(tmp_path, ema_decay=before, max_steps=1, save_strategy="steps", save_steps=1).train()
    with pytest.raises(ValueError, match="resume with the ema_decay that the run was started with"):
        _trainer(tmp_path, ema_decay=after, max_steps=8).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
