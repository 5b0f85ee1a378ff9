"""`kaseg evaluate`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..data import LabelSpace
    from ..modeling_kaseg import KASegModel


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Hub id, folder or shipped checkpoint.")],
    dataset: Annotated[str, typer.Option(help="Name (camvid, voc2012, scenes), folder or Hub id of the dataset.")],
    data_dir: Annotated[Path | None, typer.Option(help="Folder of a named dataset.")] = None,
    split: Annotated[str, typer.Option(help="Split to score.")] = "validation",
    label_space: Annotated[
        str | None, typer.Option(help="File of class names or a known dataset; needed for Hub datasets.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the scores here.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of one size that share a batch.")] = 1,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; a GPU if there is one.")] = None,
    max_samples: Annotated[int | None, typer.Option(min=1, help="Score only the first so many images.")] = None,
) -> None:
    """Score a model on a dataset: IoU and accuracy per class, mean IoU, pixel accuracy.

    Whole images at a single scale, at the labels' own resolution, counted over the whole dataset; void is left out.
    """
    from .. import __version__
    from ..data import get_label_space
    from ..evaluation.evaluator import evaluate_model, protocol_of
    from ..experiments.run import gflops
    from .models import load_model
    from .output import console, print_scores, progress_bar

    space = get_label_space(dataset, data_dir, label_space)
    data = _load(dataset, split, data_dir, space, max_samples)
    network, processor = load_model(model, device)
    check_classes(network, space)
    with progress_bar() as progress:
        task = progress.add_task("Scoring", total=len(data))
        scores = evaluate_model(network, data, processor, batch_size, progress=lambda n: progress.advance(task, n))
    results = {
        "model": model,
        "dataset": dataset,
        "split": split,
        "protocol": protocol_of(processor),
        **scores,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "gflops_513x513": round(gflops(network), 3),
        "kaseg_version": __version__,
    }
    print_scores(results)
    if json_file is not None:
        write_json(json_file, results)
        console.print(f"Scores: {json_file}", soft_wrap=True, highlight=False)


def check_classes(model: KASegModel, label_space: LabelSpace) -> None:
    """Raises a ValueError that lists both if the model's classes are not the dataset's, in its order."""
    names = tuple(name for _, name in sorted(model.config.id2label.items()))
    if names != label_space.names:
        raise ValueError(
            f"The model's classes are not those of the dataset {label_space.name!r}.\n"
            f"Model ({len(names)}): {', '.join(names)}\n"
            f"Dataset ({label_space.num_labels}): {', '.join(label_space.names)}"
        )


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Writes `results`, wholly or not at all; NaN, which JSON does not have, becomes null."""
    import json

    from ..experiments.run import write_atomically

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(_without_nan(results), indent=2, allow_nan=False) + "\n")


def _load(dataset: str, split: str, data_dir: Path | None, space: LabelSpace, max_samples: int | None) -> Any:
    from ..data import load_segmentation_dataset

    data = load_segmentation_dataset(dataset, split=split, data_dir=data_dir, label_space=space)
    return data if max_samples is None else data.select(range(min(max_samples, len(data))))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
