"""The callback that collects what a card says as training runs, and writes it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn
from transformers import TrainerCallback

from kaseg.best_effort import best_effort
from kaseg.checkpoints import resolve
from kaseg.data import SCENES, palette_for
from kaseg.evaluation.protocols import WHOLE_IMAGE, predict_masks
from kaseg.image_processing_kaseg import pixel_values_of
from kaseg.model_card.card import render_card
from kaseg.model_card.facts import CardFacts
from kaseg.model_card.results import RESULTS_NAME, describe_run, read_results
from kaseg.model_card.settings import loss_weights, public_settings, recipe_of
from kaseg.model_card.sources import CARD_NAME, DataSource, TeacherSource
from kaseg.modeling_kaseg import KASegModel
from kaseg.pixels import to_rgb

_PICTURE_NAME = "example.png"


class ModelCardCallback(TrainerCallback):
    """Writes `README.md` in the run's folder after every evaluation, at the end of training and before every push.

    A card that cannot be written is a warning: training and evaluation go on. What the callback cannot see itself (the
    command, models to compare with) is set on its attributes, which hold what [`CardFacts`] describes.

    Args:
        model ([`KASegModel`]): The network that is trained and saved.
        processor ([`KASegImageProcessor`]): Its image processor.

    Attributes:
        results: Keys of `results.json`, filled in as training runs.
        data: The training data; by default what the dataset's own `info` says.
        picture: Whether to show the first evaluation image and its mask. By default only if it is one of the synthetic
            scenes, since other data's licenses may forbid it.
    """

    def __init__(self, model: KASegModel, processor: Any) -> None:
        self.model = model
        self.processor = processor
        self.results: dict[str, Any] = {}
        self.settings: dict[str, Any] | None = None
        self.data = DataSource()
        self.teacher: TeacherSource | None = None
        self.compared: dict[str, Mapping[str, Any]] = {}
        self.command = ""
        self.model_id: str | None = None
        self.tags: tuple[str, ...] = ()
        self.picture: bool | None = None
        self._metrics: dict[str, float] = {}
        self._teacher_results: dict[str, Any] = {}
        self._eval_dataset: Any = None

    def set_teacher(self, teacher: str | Path | nn.Module) -> None:
        """Names the teacher and, if it lies in a folder with its own results, adds it to the table."""
        self.teacher = TeacherSource.of(teacher)
        if isinstance(teacher, str | Path):
            folder = Path(resolve(teacher))
            if (folder / RESULTS_NAME).is_file():
                self._teacher_results = read_results(folder)

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        if not self.data.name:
            with best_effort("the data's name for the model card"):
                self.data = DataSource.of(getattr(train_dataloader, "dataset", None))

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        # Of several datasets, those with a prefix of their own are left out: a card scores one.
        self._metrics = dict(metrics) if metrics and "eval_mean_iou" in metrics else self._metrics
        self._eval_dataset = getattr(getattr(eval_dataloader, "dataset", None), "dataset", self._eval_dataset)
        with best_effort("the data's name for the model card"):
            self.results.setdefault("dataset", DataSource.of(self._eval_dataset).name or self.data.name)
            if split := getattr(self._eval_dataset, "split", None):
                self.results.setdefault("split", str(split))
        if state.global_step > 0:
            self.write_if_possible(args.output_dir, args, state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.write_if_possible(args.output_dir, args, state)

    on_push_begin = on_train_end

    def write(self, folder: str | Path, args: Any, state: Any, name: str | None = None) -> None:
        """Writes the card of a model of this `name` (by default the repository's, or else the folder's), and the
        picture if there is to be one, after a training with `args` that has come to `state`.

        Raises:
            ValueError: the card is to compare scores on different data.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        model_id = self.model_id or args.hub_model_id or folder.resolve().name
        # Facts that were given (a finished run's results) go before those collected here.
        results = describe_run(self.model, self.processor, args, state, self._metrics) | self.results
        compared = dict(self.compared)
        other = self._teacher_results
        if self.teacher and other and all(other.get(key) == results.get(key) for key in ("dataset", "split")):
            compared.setdefault(self.teacher.name, other)
        facts = CardFacts(
            name=name or model_id.split("/")[-1],
            model_id=model_id,
            config=self.model.config,
            results=results,
            data=self.data,
            loss=loss_weights(vars(args)),
            settings=public_settings(recipe_of(args) if self.settings is None else self.settings),
            teacher=self.teacher,
            compared=compared,
            command=self.command,
            picture=self._draw(folder),
            tags=self.tags,
        )
        render_card(facts).save(folder / CARD_NAME)

    def write_if_possible(self, folder: str | Path, args: Any, state: Any) -> None:
        """Writes the card as [`~ModelCardCallback.write`] does, in the first process; a failure is a warning."""
        if state.is_world_process_zero:
            with best_effort(f"the model card in {folder}", "The model itself is not touched by it."):
                self.write(folder, args, state)

    def _draw(self, folder: Path) -> str:
        """Draws the first evaluation image beside its mask, if that is wanted; returns the file's name."""
        # Images of the scenes are ours to publish.
        wanted = self.results.get("dataset") == SCENES.name if self.picture is None else self.picture
        if not wanted or self._eval_dataset is None:
            return ""
        image = to_rgb(next(iter(self._eval_dataset))["image"])
        pixel_values = pixel_values_of(self.processor, image)
        was_training = self.model.training
        self.model.eval()
        (mask,) = predict_masks(self.model, pixel_values, [(image.height, image.width)], WHOLE_IMAGE)
        self.model.train(was_training)
        config = self.model.config
        palette = np.array(config.palette or palette_for(config.num_labels), dtype=np.uint8)
        both = np.concatenate([np.asarray(image), palette[mask.cpu().numpy()]], axis=1)
        Image.fromarray(both).save(folder / _PICTURE_NAME)
        return _PICTURE_NAME
