"""What all trainers share: where to resume, which learning rate a parameter has, named loss terms in the logs."""

import json
import logging
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from accelerate.utils import broadcast
from safetensors import SafetensorError, safe_open
from timm.layers import convert_sync_batchnorm
from torch import nn
from transformers import TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from kaseg.finite import require_finite
from kaseg.model_card import DataSource, ModelCardCallback
from kaseg.model_card.results import read_results
from kaseg.modeling_kaseg import KASegModel
from kaseg.trainer.fingerprint import RecipeFingerprint, check_resume, fingerprint
from kaseg.trainer.finite_steps import FiniteSteps
from kaseg.trainer.hyperparameter_search import SearchingTrainer

logger = logging.getLogger(__name__)


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """The newest `checkpoint-N` folder whose files are whole, or `None`: `trainer_state.json` is the last file of a
    checkpoint, and where it is missing or cut off, a process was killed while saving; where others are cut off, the
    machine was."""
    found = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    folders = [folder for folder in found if re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-\d+", folder.name)]
    for folder in sorted(folders, key=lambda folder: int(folder.name.rpartition("-")[2]), reverse=True):
        try:
            _require_whole_files(folder)
        except (OSError, ValueError, SafetensorError) as error:
            logger.warning("%s is passed over: it was not written to its end (%s).", folder, error)
            continue
        return str(folder)
    return None


def _require_whole_files(checkpoint: Path) -> None:
    json.loads((checkpoint / "trainer_state.json").read_text())
    for file in checkpoint.iterdir():
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt"):  # looks at the header, and at the size that it tells
                pass
        elif file.suffix in (".pt", ".pth") and not is_zipfile(file):
            raise ValueError(f"{file.name} is cut off")


def synchronize_batch_norm(model: nn.Module, args: TrainingArguments) -> nn.Module:
    """The model with statistics of BatchNorm taken over all processes; as it is where there is one process. A
    ValueError for several processes without GPUs, on which PyTorch cannot do it."""
    if args.world_size == 1:
        return model
    if args.device.type == "cpu":
        raise ValueError(
            "sync_batch_norm needs GPUs: PyTorch has no SyncBatchNorm for several processes on the CPU. Leave it off, "
            "or keep BatchNorm fixed (freeze_batch_norm)."
        )
    return convert_sync_batchnorm(model)


def encoder_of(model: nn.Module) -> nn.Module:
    """The encoder of a segmentation model: of ours, of transformers, torchvision and segmentation_models.pytorch. A
    ValueError if there is none that goes by a usual name."""
    names = ("encoder", "backbone", getattr(model, "base_model_prefix", ""))
    for name in names:
        found = getattr(model, name, None) if name else None
        if isinstance(found, nn.Module) and any(True for _ in found.parameters()):
            return found
    raise ValueError(
        f"backbone_learning_rate_scale is not 1, but {type(model).__name__} has no encoder: it would have to be an "
        "attribute called encoder or backbone. Leave backbone_learning_rate_scale at 1, or override "
        "learning_rate_scale(name) of the trainer."
    )


def share_buffers(module: nn.Module) -> None:
    """Give all processes the first one's buffers, in place; nothing where there is one process.

    DDP does so before each forward pass in training, so that after the last one every process has statistics of
    BatchNorm of its own, while those of the first are saved.
    """
    for buffer in module.buffers():
        broadcast(buffer)


class EpochCallback(TrainerCallback):
    """Tells the dataset the epoch, on which its augmentation depends.

    accelerate does so neither after resuming in the middle of an epoch nor in runs of several processes.
    """

    def on_epoch_begin(
        self, args: TrainingArguments, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any
    ) -> None:
        set_epoch = getattr(getattr(train_dataloader, "dataset", None), "set_epoch", None)
        if set_epoch is not None:
            set_epoch(int(state.epoch or 0))


class TermTrainer(SearchingTrainer):
    """`Trainer` with exact resume from complete checkpoints, learning rates by part, and named loss terms.

    Resume is exact on data with a length; of a stream, transformers finds its place within the first pass only.

    Subclasses add loss terms with `add_term` while they compute the loss; their means since the last log appear in
    the logs under the `stage` prefix, e.g. `distillation/affinity`.

    Where a [`KASegModel`] is trained, `model_card` is the [`~kaseg.model_card.ModelCardCallback`] that writes its card;
    it is `None` elsewhere.
    """

    stage = "train"
    model: Any
    args: Any

    def __init__(self, model: Any, args: Any, **kwargs: Any) -> None:
        if args.fsdp or args.deepspeed:
            raise ValueError(
                "FSDP and DeepSpeed are not supported: models of this size fit on every device, and the teacher is "
                "kept whole on each. Leave fsdp and deepspeed out and start one process per device (torchrun "
                "--nproc_per_node=...), which is DDP."
            )
        if args.sync_batch_norm:
            model = synchronize_batch_norm(model, args)
        super().__init__(model=model, args=args, **kwargs)
        self._begin_average()
        self._terms: dict[str, tuple[torch.Tensor, int]] = {}  # sum and number of values since the last log
        self._step_terms: dict[str, torch.Tensor] = {}  # of the micro-batch under way
        self.finite_steps = FiniteSteps(self)
        self.add_callback(EpochCallback())
        self.add_callback(self.finite_steps)
        self._recipe = RecipeFingerprint()
        self.add_callback(self._recipe)
        trained = getattr(self, "segmentation_model", None)
        self.model_card: ModelCardCallback | None = None
        if isinstance(trained, KASegModel):
            self.model_card = ModelCardCallback(trained, self.processing_class)
            self.model_card.model_id = self.hub_model_id
            self.add_callback(self.model_card)

    def _begin_average(self, network: Any = None) -> None:
        """Called once the network that is trained is on its device, before anything asks for the one that is saved."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in `transformers.Trainer`; what the user saves has its card beside it. A NotFiniteError, and nothing is
        written, if the model holds NaN or infinite numbers."""
        require_finite(self.model, "The model")
        super().save_model(output_dir, _internal_call)
        if self.model_card is not None and not _internal_call:
            self.model_card.write_if_possible(output_dir or self.args.output_dir, self.args, self.state)

    def create_model_card(
        self,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        dataset: str | None = None,
        beside: Mapping[str, str | Path] | None = None,
        picture: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the model's card as `README.md` in `output_dir`; `push_to_hub` passes its keyword arguments on to here.

        Args:
            license (`str`, *optional*): License of the training data, if it is not one that kaseg knows.
            tags (`str` or `list[str]`, *optional*): Further tags.
            model_name (`str`, *optional*): The card's title.
            dataset (`str`, *optional*): Name or Hub id of the training data, if its `info` does not say.
            beside (`Mapping[str, str | Path]`, *optional*): Folders of finished runs by name, for the table of scores:
                the plain twin of an adapted student, its teacher.
            picture (`bool`, *optional*): Show the first evaluation image and its mask; by default only where it is a
                synthetic scene. Mind the data's license.
            kwargs: The further arguments of `transformers.Trainer`, for a model that is not a [`KASegModel`].

        Raises:
            FileNotFoundError: a run beside it is not finished.
            TypeError: an argument that only transformers' own card has.
            ValueError: a run beside it was scored on other data.
        """
        card = self.model_card
        if card is None:
            super().create_model_card(license=license, tags=tags, model_name=model_name, dataset=dataset, **kwargs)
            return
        if kwargs:
            raise TypeError(f"The card of a KASegModel has no {', '.join(sorted(kwargs))}.")
        card.data = card.data if dataset is None else DataSource.named(dataset)
        card.data = card.data if license is None else replace(card.data, license=license)
        card.tags = (tags,) if isinstance(tags, str) else tuple(tags or card.tags)
        card.compared |= {name: read_results(folder) for name, folder in (beside or {}).items()}
        card.picture = card.picture if picture is None else picture
        card.model_id = self.hub_model_id or card.model_id
        if self.is_world_process_zero():
            card.write(self.args.output_dir, self.args, self.state, name=model_name)

    def add_term(self, name: str, value: torch.Tensor) -> None:
        """Remember one micro-batch's value of a loss term for the next log."""
        if self.model.training:
            total, count = self._terms.get(name, (torch.zeros((), device=value.device), 0))
            self._terms[name] = total + value.detach().float(), count + 1
            self._step_terms[name] = value.detach()

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        self._step_terms = {}
        # Not for compute_loss, where users pass all inputs on to the model.
        names = inputs.pop("sample_names", None) if isinstance(inputs, dict) else None
        loss = super().training_step(model, inputs, num_items_in_batch)
        return self.finite_steps.add(self._step_terms, loss, names)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self.control.should_log or self.control.should_save or self.control.should_evaluate:
            self.finite_steps.check()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            for name, (total, count) in self._terms.items():
                mean = self.accelerator.reduce(total / count, reduction="mean")
                logs[f"{self.stage}/{name}"] = round(float(mean), 6)
            self._terms.clear()
        super().log(logs, start_time)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train; `resume_from_checkpoint=True` goes on from the last complete checkpoint in `output_dir`, if any.

        Raises:
            ValueError: The training data do not make a single batch; or the last checkpoint is one of another recipe,
                or has no optimizer state (`save_only_model`). Of a checkpoint that is named this is a warning.
            NotFiniteError (a `ValueError`): A loss, a gradient or the model is no longer finite.
        """
        is_named = resume_from_checkpoint is not True
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir)
        self._require_a_batch()
        self._recipe.recipe = self.fingerprint()
        if resume_from_checkpoint:
            how = f"train(resume_from_checkpoint={str(resume_from_checkpoint)!r})"
            check_resume(resume_from_checkpoint, self._recipe.recipe, is_named, how)
        # The data order follows torch's seed: it must not depend on what was drawn since the trainer was built, such
        # as another stage that ran before or was skipped.
        set_seed(self.args.seed)
        output = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        self.finite_steps.finish()
        require_finite(self.model, "The trained model")
        return output

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # transformers looks at the number of steps after a step: of a run that was stopped behind its last one, it
        # would do one more.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def fingerprint(self) -> dict[str, Any]:
        """What this run is made of, see [`~kaseg.trainer.fingerprint.fingerprint`]."""
        return fingerprint(self.args, self.model.config, self.train_dataset, getattr(self, "teacher", None))

    def _require_a_batch(self) -> None:
        """With `dataloader_drop_last`, transformers would train for no steps and call the run finished."""
        args = self.args
        if not hasattr(self.train_dataset, "__len__"):
            return
        count = len(self.train_dataset)
        if not count:
            raise ValueError(
                "There are no training samples: train_dataset is empty. Look at what selects its samples (split, "
                "filter, select)."
            )
        batch = args.train_batch_size * args.world_size
        if args.dataloader_drop_last and count < batch:
            raise ValueError(
                f"{count} training samples make no batch of {batch}: lower "
                "per_device_train_batch_size. (dataloader_drop_last is on: BatchNorm cannot take a last batch of one.)"
            )

    def learning_rate_scale(self, name: str) -> float:
        """Factor on the learning rate of the parameter called `name`."""
        return 1.0

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new:
            self._split_groups(optimizer, self.model if model is None else model)
        return optimizer

    def _split_groups(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        """Give every part its own group where learning rates differ; schedulers keep the ratios."""
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups: list[dict[str, Any]] = []
        for group in optimizer.param_groups:
            by_scale: dict[float, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                name = names.get(id(parameter), "").removeprefix("module.")
                by_scale[self.learning_rate_scale(name)].append(parameter)
            for scale, parameters in by_scale.items():
                groups.append({**group, "params": parameters, "lr": group["lr"] * scale})
        optimizer.param_groups[:] = groups
