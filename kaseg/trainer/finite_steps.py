"""Training stops where a loss or a gradient is no longer a finite number."""

from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import TrainerCallback

from kaseg.data.dataset import read_names
from kaseg.finite import NotFiniteError

# GradScaler starts at 2^16 and halves its scale at each overflow: after 32 in a row it is at 2^-16, where no gradient
# of a sound network overflows (our choice).
_MOST_OVERFLOWS = 32
_LISTED = 16


class _Value(NamedTuple):
    step: int
    name: str
    value: torch.Tensor
    samples: torch.Tensor | None


class FiniteSteps(TrainerCallback):
    """Watches the losses and gradients of a trainer.

    On the CPU every step is looked at before it changes the weights. On a GPU the values stay there until the trainer
    logs, saves, evaluates or ends, so that no step waits; the step that is named is the first that went wrong.

    With fp16, whose GradScaler leaves out steps that overflow until it has found its scale, 32 steps left out in a row
    are an error, and so is a training of which all were.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.values: list[_Value] = []
        self.overflows = 0
        self.last_loss: torch.Tensor | None = None
        self.any_step_taken = False

    @property
    def scales_losses(self) -> bool:
        """Whether a GradScaler is in use."""
        scaler = self.trainer.accelerator.scaler
        return scaler is not None and scaler.is_enabled()

    @property
    def step(self) -> int:
        """Number of the step under way, from 1."""
        return self.trainer.state.global_step + 1

    def add(self, terms: dict[str, torch.Tensor], loss: torch.Tensor, samples: torch.Tensor | None) -> torch.Tensor:
        """Remember the terms and the loss of a micro-batch and the names of its samples; returns the loss to log."""
        self.values += [_Value(self.step, name, value.detach(), samples) for name, value in terms.items()]
        self.values.append(_Value(self.step, "loss", loss.detach(), samples))
        if not self.scales_losses:
            return loss
        # One overflow that is made up for must not turn the mean of the log into NaN.
        last = torch.zeros_like(loss) if self.last_loss is None else self.last_loss
        self.last_loss = torch.where(loss.isfinite(), loss, last)
        return self.last_loss

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.values, self.overflows, self.last_loss, self.any_step_taken = [], 0, None, False

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if self.scales_losses:
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if gradients:
            norm = nn.utils.get_total_norm(gradients, torch.inf)
            self.values.append(_Value(self.step, "gradient", norm, self._samples_of_the_step()))
        if args.device.type == "cpu":
            self.check()

    def _samples_of_the_step(self) -> torch.Tensor | None:
        """The names of the samples of all micro-batches of the step under way, where they are known."""
        losses = [value for value in self.values if value.step == self.step and value.name == "loss"]
        names = [value.samples for value in losses if value.samples is not None]
        return torch.cat(names) if names else None

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.scales_losses:
            return
        if not self.trainer.accelerator.optimizer_step_was_skipped:
            self.overflows, self.any_step_taken, self.values = 0, True, []
            return
        self.overflows += 1
        if self.overflows >= _MOST_OVERFLOWS:
            self._stop_at_overflows()
        self.values = [value for value in self.values if value.step == self.step]

    def check(self) -> None:
        """Look at all values since the last look; a NotFiniteError that names the step, the term and the samples if one
        is NaN or infinite."""
        if self.scales_losses:
            return
        values, self.values = self.values, []
        if (found := _first_bad(values)) is not None:
            raise NotFiniteError(self._message(*found))

    def finish(self) -> None:
        """The last look, after training: a NotFiniteError also if no step of an fp16 training was taken."""
        if self.scales_losses and self.overflows and not self.any_step_taken:
            self._stop_at_overflows()
        self.check()

    def _stop_at_overflows(self) -> None:
        found = _first_bad([value for value in self.values if value.step == self.step]) or _first_bad(self.values)
        what = "" if found is None else f" {self._message(*found)}"
        raise NotFiniteError(
            f"fp16 overflowed in {self.overflows} steps in a row, up to step {self.step}, and none of them was "
            f"taken: this does not pass. Use bf16, or float32.{what}"
        )

    def _message(self, bad: list[_Value], numbers: list[float]) -> str:
        first = bad[0]
        is_term = first.name not in ("loss", "gradient")
        what = f"the loss term {first.name!r}" if is_term else f"the {first.name}"
        others = [value.name for value in bad[1:] if value.name not in ("loss", "gradient") and is_term]
        also = f" (and {', '.join(dict.fromkeys(others))})" if others else ""
        names = [] if first.samples is None else read_names(first.samples)
        listed = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
        where = f" for the samples {listed}" if names else ""
        return (
            f"Step {first.step} ({self.trainer.stage}): {what}{also} is {numbers[0]}{where}. Training stops, since "
            "every weight would be NaN from here on. Lower learning_rate (autoencoder_learning_rate in the first "
            "stage), clip gradients (max_grad_norm), or look at these samples and at the teacher's maps."
        )


def _first_bad(values: list[_Value]) -> tuple[list[_Value], list[float]] | None:
    """The values of the first step that has any that is not finite, and what they are."""
    if not values:
        return None
    numbers = torch.stack([value.value.float() for value in values]).tolist()
    pairs = [(v, n) for v, n in zip(values, numbers, strict=True) if not -float("inf") < n < float("inf")]
    if not pairs:
        return None
    pairs = [(value, number) for value, number in pairs if value.step == pairs[0][0].step]
    return [value for value, _ in pairs], [number for _, number in pairs]
