"""One run from its recipe: build, train, evaluate, write what came out."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import datasets
import yaml
from torch.utils.data import ConcatDataset
from transformers import set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from kaseg.best_effort import best_effort, noting
from kaseg.configuration_kaseg import KASegConfig
from kaseg.data import LabelSpace, get_label_space, load_images, load_segmentation_dataset
from kaseg.encoders import check_encoder_name
from kaseg.evaluation.cost import hardware, milliseconds_per_image
from kaseg.experiments.encoder_source import normalization_of, read_encoder
from kaseg.experiments.recipe import DataArguments, ModelArguments, TeacherArguments
from kaseg.model_card import DataSource, ModelCardCallback
from kaseg.model_card.published_files import RECIPE_NAME
from kaseg.model_card.results import RESULTS_NAME, describe_run
from kaseg.model_card.settings import changed_settings, public_settings, recipe_of
from kaseg.modeling_kaseg import KASegModel
from kaseg.trainer import KnowledgeAdaptationConfig, KnowledgeAdaptationTrainer, SegmentationConfig, SegmentationTrainer
from kaseg.trainer.base import last_complete_checkpoint
from kaseg.trainer.options import fields_for
from kaseg.writing import write_atomically, write_json

SEPARABLE_HEADS = ("deeplabv3plus", "fpn")
# Fields that change nothing beside a checkpoint. Weights for other runs of a family may stand beside it.
_ARCHITECTURE = ("backbone", "output_stride", "head", "separable_head")
_DECIDED_BY = {
    "model": (*_ARCHITECTURE, "classifier_dropout_prob", "freeze_batch_norm", "pad_to_stride", "encoder_from"),
    "encoder_from": ("backbone",),
}


def build_model(model_args: ModelArguments, label_space: LabelSpace, seed: int) -> KASegModel:
    """A new model for `label_space`, or the checkpoint `model_args.model` with its classifier fitted to it."""
    set_seed(seed)
    labels: dict[str, Any] = {
        "id2label": label_space.id2label,
        "label2id": label_space.label2id,
        "palette": [list(color) for color in label_space.palette],
    }
    if model_args.model is not None:
        return KASegModel.from_pretrained(model_args.model, **labels, ignore_mismatched_sizes=True)
    fields = fields_for(KASegConfig, model_args)
    if model_args.encoder_from is not None:
        own, weights = read_encoder(model_args.encoder_from)
        model = KASegModel(KASegConfig(**{**fields, **own}, **labels))
        model.encoder.load_state_dict(weights)
        return model
    config = KASegConfig(**fields, **labels)
    return KASegModel(
        config, pretrained_backbone=model_args.pretrained_backbone, backbone_weights=model_args.backbone_weights
    )


def check_model(model_args: ModelArguments) -> None:
    """Raise a `ValueError` for fields that a checkpoint decides, or of which no new model can be built, as far as that
    shows beforehand."""
    start = "encoder_from" if model_args.model is None else "model"
    decided = () if getattr(model_args, start) is None else _DECIDED_BY[start]
    if given := [name for name in decided if getattr(model_args, name) != getattr(ModelArguments, name)]:
        raise ValueError(
            f"{', '.join(given)} would change nothing beside {start}={getattr(model_args, start)}, which decides it: "
            "leave one of them out."
        )
    if not model_args.separable_head and model_args.model is None and model_args.head not in SEPARABLE_HEADS:
        raise ValueError(
            f"separable_head would change nothing, as the head is {model_args.head!r}: leave it out, or take one of "
            f"{', '.join(SEPARABLE_HEADS)}."
        )
    if model_args.model is None:
        KASegConfig(**fields_for(KASegConfig, model_args))
        check_encoder_name(model_args.backbone)


def load_data(data_args: DataArguments) -> tuple[Any, Any]:
    """Training and evaluation data, cut to `max_train_samples` and `max_eval_samples`."""

    def load(split: str, limit: int | None) -> Any:
        options = fields_for(load_segmentation_dataset, data_args)
        dataset = load_segmentation_dataset(data_args.dataset, split=split, **options)
        if limit is not None and limit < 1:
            raise ValueError(f"max_train_samples and max_eval_samples must be at least 1, got {limit}.")
        if limit is not None and isinstance(dataset, datasets.Dataset):
            dataset = dataset.select(range(min(limit, len(dataset))))
        return dataset

    return (
        load(data_args.train_split, data_args.max_train_samples),
        load(data_args.eval_split, data_args.max_eval_samples),
    )


def train(
    model_args: ModelArguments, data_args: DataArguments, args: SegmentationConfig, resume: bool = True
) -> dict[str, Any]:
    """Train a teacher or a plain student; see [`run`]."""
    return run(model_args, data_args, args, resume)


def distill(
    model_args: ModelArguments,
    data_args: DataArguments,
    teacher_args: TeacherArguments,
    args: KnowledgeAdaptationConfig,
    resume: bool = True,
) -> dict[str, Any]:
    """Train a student by knowledge adaptation; see [`run`]. A ValueError if no teacher is named."""
    if not teacher_args.teacher:
        raise ValueError("Knowledge adaptation needs a teacher: set teacher (Hub id, folder or shipped checkpoint).")
    return run(model_args, data_args, args, resume, teacher_args)


def run(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: SegmentationConfig,
    resume: bool,
    teacher_args: TeacherArguments | None = None,
) -> dict[str, Any]:
    """Train, evaluate on `eval_split` after the last step, and write model, recipe and results to `output_dir`; returns
    what `results.json` holds. With `resume` an unfinished run there goes on where it was stopped, and a finished one is
    only read; a ValueError if it has another recipe."""
    output_dir = Path(args.output_dir)
    results_file = output_dir / RESULTS_NAME
    recipe = recipe_of(model_args, data_args, args, *([] if teacher_args is None else [teacher_args]))
    if resume:
        check_same_recipe(output_dir / RECIPE_NAME, recipe)
        if results_file.is_file():
            return json.loads(results_file.read_text())
    trainer = _build_trainer(model_args, data_args, args, teacher_args)
    # Not before: a run that cannot begin neither takes the place of another one nor claims the folder.
    if not resume:
        _forget(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(output_dir / RECIPE_NAME, yaml.safe_dump(recipe, sort_keys=False))
    card = _introduce(trainer, recipe, data_args)
    checkpoint = last_complete_checkpoint(output_dir) if resume else None
    first_step = int(checkpoint.rpartition("-")[2]) if checkpoint else 0
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=resume)
    seconds = time.perf_counter() - start
    # Not sent to the Hub yet: its results are still missing.
    trainer.save_model(_internal_call=True)
    with noting(f"The training is finished and its model saved in {output_dir}; it is not scored yet."):
        metrics = trainer.evaluate()
    results = describe_results(trainer, recipe, metrics, data_args)
    results.update(train_seconds=round(seconds, 1), train_seconds_from_step=first_step)
    card.results |= results
    with best_effort(f"the model card in {output_dir}", "The model and its results are there all the same."):
        trainer.create_model_card()
    # Written last: it says that the run is finished.
    if trainer.is_world_process_zero():
        write_json(results_file, results)
    if args.push_to_hub:
        with noting(f"The run is finished; model and results are in {output_dir}."):
            trainer.push_to_hub()
    return results


def _build_trainer(
    model_args: ModelArguments, data_args: DataArguments, args: Any, teacher_args: TeacherArguments | None
) -> SegmentationTrainer:
    """The trainer with its data and its model."""
    check_model(model_args)
    label_space = get_label_space(data_args.dataset, data_args.data_dir, data_args.label_space)
    train_dataset, eval_dataset = load_data(data_args)
    unlabelled = None
    if teacher_args is not None and teacher_args.unlabelled_dir is not None:
        unlabelled = load_images(teacher_args.unlabelled_dir)
    if data_args.max_labelled_samples is not None:
        train_dataset, others = _keep_labels(train_dataset, data_args.max_labelled_samples)
        unlabelled = others if unlabelled is None else ConcatDataset([others, unlabelled])
    model = build_model(model_args, label_space, args.seed)
    start_from = model_args.model or model_args.encoder_from
    # Of a new model, the trainer chooses it, and warns where the encoder's weights want another one.
    processor = None if start_from is None else normalization_of(start_from)
    parts: dict[str, Any] = dict(
        model=model, args=args, train_dataset=train_dataset, eval_dataset=eval_dataset, processing_class=processor
    )
    if teacher_args is None:
        return SegmentationTrainer(**parts)
    return KnowledgeAdaptationTrainer(
        teacher=teacher_args.teacher, autoencoder=teacher_args.autoencoder, unlabelled_dataset=unlabelled, **parts
    )


def _keep_labels(data: datasets.Dataset, count: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Samples whose masks are used, `count` of them spread evenly over the data, and the others."""
    if not 0 < count < len(data):
        raise ValueError(
            f"max_labelled_samples is {count}: it must be from 1 to {len(data) - 1}, so that some of the {len(data)} "
            "training samples are labelled and some are not."
        )
    kept = [index * len(data) // count for index in range(count)]
    return data.select(kept), data.select(sorted(set(range(len(data))) - set(kept)))


def _introduce(trainer: SegmentationTrainer, recipe: dict[str, Any], data_args: DataArguments) -> ModelCardCallback:
    """Tell the trainer's card what only the recipe knows."""
    card = trainer.model_card
    assert card is not None  # build_model has made a KASegModel
    card.data = DataSource.named(data_args.dataset)
    card.settings = recipe
    card.command = f"kaseg {'distill' if 'teacher' in recipe else 'train'} --config {RECIPE_NAME}"
    card.results |= {"dataset": card.data.name, "split": data_args.eval_split}
    return card


def _forget(output_dir: Path) -> None:
    """Remove what a later resume would take for its own: results, checkpoints and first stages of the run before."""
    (output_dir / RESULTS_NAME).unlink(missing_ok=True)
    for folder in (*output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), output_dir / "autoencoder", output_dir / "adapters"):
        shutil.rmtree(folder, ignore_errors=True)


def describe_results(
    trainer: SegmentationTrainer, recipe: dict[str, Any], metrics: dict[str, float], data_args: DataArguments
) -> dict[str, Any]:
    """The content of `results.json` but for the time: scores, cost, speed, seed, steps, losses and versions."""
    model = trainer.segmentation_model
    return {
        "dataset": DataSource.named(data_args.dataset).name,  # of a folder its name: results are published
        "split": data_args.eval_split,
        "train_split": data_args.train_split,
        **describe_run(model, trainer.processing_class, trainer.args, trainer.state, metrics),
        **(_latency(trainer) if data_args.measure_latency else {}),
        "recipe": public_settings(recipe),
        "log": [{k: v for k, v in entry.items() if k != "total_flos"} for entry in trainer.state.log_history],
    }


def _latency(trainer: SegmentationTrainer, side: int = 513, repeats: int = 5) -> dict[str, Any]:
    """Time of one image on the machine that trained, and what belongs to it; nothing if it cannot be taken."""
    # Without the autocast that training has wrapped around some of the models.
    model = trainer.accelerator.unwrap_model(trainer.segmentation_model, keep_fp32_wrapper=False)
    milliseconds = None
    with best_effort("the time per image (latency)"):
        milliseconds = milliseconds_per_image({"model": model}, side, side, repeats)["model"]
    if milliseconds is None:
        return {}
    return {
        "latency": {
            "milliseconds": round(milliseconds, 2),
            "height": side,
            "width": side,
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "repeats": repeats,
            "hardware": hardware(),
        }
    }


def check_same_recipe(path: Path, recipe: dict[str, Any]) -> None:
    """Raise a ValueError that lists the differences if a run's recipe file is there and is another one; where things
    lie and how a run is watched makes no difference."""
    if not path.is_file():
        return
    before = public_settings(yaml.safe_load(path.read_text()) or {})
    if changed := changed_settings(before, public_settings(recipe)):
        raise ValueError(
            f"{path.parent} holds a run with another recipe; it differs in {changed}. Choose another output_dir, or "
            "start anew with --no-resume."
        )
