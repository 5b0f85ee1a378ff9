"""The moving average of the weights, which is evaluated and saved in place of those that are trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from timm.utils import ModelEmaV3
from torch import nn
from transformers import TrainerCallback

TRAINED_WEIGHTS_NAME = "trained_weights.safetensors"


class WeightAverage(ModelEmaV3):
    """Exponential moving average of a network's weights and of its BatchNorm statistics, by timm.

    After step `n` it is `a <- d * a + (1 - d) * w` with `d = min(decay, (n - 1) / (n + 9))`: it reaches back over a
    tenth of the steps done until `decay` limits it, so that nothing is left of the first weights in a short run either.
    The rule is that of TensorFlow's `ExponentialMovingAverage`, but for one step. A checkpoint holds the average as its
    model and, to resume, the trained weights beside it.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network, decay=decay, use_warmup=True, warmup_gamma=10.0, warmup_power=1.0)
        self.module.requires_grad_(False)


class WeightAverageCallback(TrainerCallback):
    """Updates the average after each step of the optimizer."""

    def __init__(self, average: WeightAverage, network: Callable[[], nn.Module]) -> None:
        self.average = average
        self.network = network

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.average.update(self.network(), step=state.global_step + 1)


def check_same_averaging(averages: bool, checkpoint: str | Path) -> None:
    """Raise a ValueError if a checkpoint holds an average and the run makes none, or the other way round."""
    found = (Path(checkpoint) / TRAINED_WEIGHTS_NAME).is_file()
    if found != averages:
        holds = "holds an average of the weights (ema_decay)" if found else "holds no average of the weights"
        makes = "makes one (ema_decay)" if averages else "makes none"
        raise ValueError(
            f"{checkpoint} {holds}, but this run {makes}: resume with the ema_decay that the run was started with."
        )
