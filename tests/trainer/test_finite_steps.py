import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toy import ka_trainer, make_autoencoder, make_teacher, seg_trainer
from transformers import TrainerState

from kaseg.data.dataset import write_name
from kaseg.finite import NotFiniteError
from kaseg.trainer.finite_steps import FiniteSteps


def _nothing_is_finished(folder: Path) -> bool:
    return not list(folder.rglob("model.safetensors")) and not list(folder.rglob("trainer_state.json"))


def _samples_in(error: Exception) -> list[str]:
    return str(error).partition("samples ")[2].partition(". Training")[0].split(", ")


class TestLearningRates:
    def test_of_a_plain_training(self, tmp_path: Path) -> None:
        trainer = seg_trainer(tmp_path, learning_rate=1e9, max_steps=8)
        with pytest.raises(
            NotFiniteError, match=r"Step \d \(train\): the (loss|gradient) is (nan|inf).*samples \d+, \d+"
        ):
            trainer.train()
        # Before the step that would have changed them for good.
        assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
        assert all(math.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)
        assert _nothing_is_finished(tmp_path)

    def test_of_the_first_stage(self, tmp_path: Path) -> None:
        trainer = ka_trainer(tmp_path, autoencoder_learning_rate=1e30, autoencoder_max_steps=8)
        with pytest.raises(NotFiniteError, match=r"Step \d \(autoencoder\)"):
            trainer.train()
        assert trainer.autoencoder is None and trainer.state.global_step == 0  # the second stage was not begun
        assert _nothing_is_finished(tmp_path)

    def test_of_the_second_stage(self, tmp_path: Path) -> None:
        with pytest.raises(NotFiniteError, match=r"Step \d \(distillation\): the (loss term|gradient)"):
            ka_trainer(tmp_path, learning_rate=1e20, max_steps=8).train()
        assert not list(tmp_path.glob("model.safetensors"))


@pytest.mark.parametrize("number", [math.nan, -math.inf])
def test_the_step_and_the_samples_are_named(number: float, tmp_path: Path, monkeypatch) -> None:
    trainer = seg_trainer(tmp_path, save_strategy="steps", save_steps=1)
    label_loss = trainer.label_loss
    seen: list[torch.Tensor] = []

    def broken(logits: torch.Tensor, labels: torch.Tensor, count: torch.Tensor | None) -> torch.Tensor:
        seen.append(labels)
        return label_loss(logits, labels, count) * (number if len(seen) == 3 else 1)

    monkeypatch.setattr(trainer, "label_loss", broken)
    with pytest.raises(NotFiniteError, match=rf"Step 3 \(train\): the loss is {number}") as caught:
        trainer.train()
    names = _samples_in(caught.value)
    assert len(names) == 4 and set(names) <= {str(index) for index in range(12)}
    assert sorted(folder.name for folder in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]


def test_a_gradient_alone(tmp_path: Path, monkeypatch) -> None:
    trainer = seg_trainer(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=3)

    class Explodes(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * math.inf

    label_loss = trainer.label_loss
    monkeypatch.setattr(trainer, "label_loss", lambda *a: Explodes.apply(label_loss(*a)))
    with pytest.raises(NotFiniteError, match=r"Step 1 \(train\): the gradient is (nan|inf)") as caught:
        trainer.train()
    assert len(set(_samples_in(caught.value))) == 6  # of all micro-batches


def test_the_term_is_named_and_nothing_is_logged_as_zero(tmp_path: Path, monkeypatch) -> None:
    trainer = ka_trainer(tmp_path)
    real = trainer._fractions_of_step

    def fractions(*args: Any) -> dict[str, Any]:
        return {k: v * math.nan if k == "affinity" else v for k, v in real(*args).items()}

    monkeypatch.setattr(trainer, "_fractions_of_step", fractions)
    with pytest.raises(
        NotFiniteError, match=r"Step 1 \(distillation\): the loss term 'affinity' is nan for the samples"
    ):
        trainer.train()
    assert not any("loss" in entry for entry in trainer.state.log_history)


def test_weights_that_the_last_step_broke(tmp_path: Path, monkeypatch) -> None:
    trainer = seg_trainer(tmp_path, max_steps=1)
    monkeypatch.setattr(
        "torch.optim.SGD.step", lambda self, *a, **k: self.param_groups[0]["params"][0].data.fill_(math.nan)
    )
    with pytest.raises(NotFiniteError, match="The trained model is not finite"):
        trainer.train()


def test_the_default_autoencoder_stands_maps_of_any_scale(tmp_path: Path) -> None:
    losses = []
    for scale in (1.0, 1e-4, 1e4):
        teacher = make_teacher()
        teacher.head.register_forward_hook(lambda module, inputs, output, scale=scale: output * scale)
        folder = tmp_path / str(scale)
        assert ka_trainer(folder, teacher=teacher).fit_autoencoder().normalization.std != 1
        state = json.loads((folder / "autoencoder/trainer_state.json").read_text())
        losses.append([e["autoencoder/reconstruction"] for e in state["log_history"] if "loss" in e])
    assert len(losses[0]) == 3
    assert all(others == pytest.approx(losses[0], rel=0.01) for others in losses[1:])


def test_an_autoencoder_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    autoencoder = make_autoencoder()
    torch.nn.init.constant_(autoencoder.encoder[0][0].weight, math.nan)
    with pytest.raises(NotFiniteError, match="The autoencoder is not finite"):
        ka_trainer(tmp_path, autoencoder=autoencoder)


def _watch(scaled: bool = False) -> tuple[FiniteSteps, SimpleNamespace]:
    scaler = SimpleNamespace(is_enabled=lambda: scaled)
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(scaler=scaler, optimizer_step_was_skipped=False),
        state=TrainerState(),
        stage="train",
    )
    return FiniteSteps(trainer), trainer


def test_values_that_wait_on_the_device_name_the_first_bad_step() -> None:
    watch, trainer = _watch()
    for step in range(6):
        trainer.state.global_step = step
        loss = torch.tensor(math.nan if step > 3 else 1.0)
        terms = {"a": torch.tensor(1.0), "b": torch.tensor(math.inf if step > 3 else 1.0), "c": loss}
        names = torch.stack([write_name(f"frame {step}"), write_name("ß" * 60)])
        assert watch.add(terms, loss, names) is loss
    with pytest.raises(
        NotFiniteError, match=r"Step 5 \(train\): the loss term 'b' \(and c\) is inf.*samples frame 4, ß"
    ):
        watch.check()
    watch.check()  # each value is looked at once


class TestFloat16:
    """GradScaler leaves out the steps that overflow, and they are many at first."""

    def _run(self, overflows: list[bool]) -> FiniteSteps:
        watch, trainer = _watch(scaled=True)
        watch.on_train_begin(None, None, None)
        for step, overflow in enumerate(overflows):
            trainer.state.global_step = step
            trainer.accelerator.optimizer_step_was_skipped = overflow
            value = torch.tensor(math.nan if overflow else 2.0)
            logged = watch.add({"adaptation": value}, value, write_name("frame 7")[None])
            assert logged.isfinite()
            watch.on_pre_optimizer_step(None, None, None)
            watch.on_optimizer_step(None, None, None)
            watch.check()
        return watch

    def test_overflows_that_pass_are_none(self) -> None:
        self._run([True] * 20 + [False] + [True] * 20 + [False]).finish()
        self._run([False] * 3 + [True]).finish()

    def test_overflows_that_do_not_pass_are(self) -> None:
        with pytest.raises(NotFiniteError, match=r"32 steps in a row.*bf16.*Step 35.*'adaptation' is nan.*frame 7"):
            self._run([False] * 3 + [True] * 40)

    def test_a_training_of_which_no_step_was_taken(self) -> None:
        with pytest.raises(NotFiniteError, match="4 steps in a row"):
            self._run([True] * 4).finish()


def test_checkpoints_hold_json_alone(tmp_path: Path) -> None:
    seg_trainer(tmp_path, max_steps=1, save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1).train()
    (file,) = tmp_path.glob("checkpoint-*/trainer_state.json")
    json.loads(file.read_text(), parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
