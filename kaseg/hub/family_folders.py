"""Folders of the paper's models before they are trained: architecture, recipe and a card, but no weights.

`python -m kaseg.hub.family_folders hub_configs` writes them all again, and leaves folders that hold weights alone.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from kaseg.checkpoints import NAMESPACE
from kaseg.configuration_kaseg import KASegConfig
from kaseg.data import SPECS
from kaseg.hub.families import Member, members
from kaseg.hub.family_recipes import recipe_lines, recipe_text
from kaseg.image_processing_kaseg import KASegImageProcessor
from kaseg.model_card import CardFacts, DataSource, TeacherSource, render_card
from kaseg.model_card.cost import gflops, parameter_count
from kaseg.model_card.settings import loss_weights
from kaseg.modeling_kaseg import KASegModel


def write_family_folder(member: Member, folder: str | Path) -> Path:
    """Write config, processor, recipe, card and what is known without training (`results.json`: data, licence, cost).

    Args:
        member ([`Member`]): The model.
        folder (`str` or `Path`): Where to; its last part should be the model's name.

    Returns:
        The folder.

    Raises:
        ValueError: the folder holds weights, whose card and results must not be overwritten.
    """
    folder = Path(folder)
    if (folder / "model.safetensors").exists():
        raise ValueError(f"{folder} holds a trained model; what belongs to it is written by write_checkpoint_folder.")
    folder.mkdir(parents=True, exist_ok=True)
    config = family_config(member)
    spec = SPECS[member.benchmark.dataset]
    cost = _cost(member.backbone, member.output_stride, member.head, config.num_labels)
    # Of another version of transformers the file would be another one, without saying anything else.
    architecture = {k: v for k, v in config.to_diff_dict().items() if k != "transformers_version"}
    _write_json(folder / "config.json", architecture)
    _write_json(folder / "preprocessor_config.json", json.loads(KASegImageProcessor().to_json_string()))
    _write_json(folder / "results.json", {"license": spec.licence, "dataset": spec.name, **cost})
    (folder / "recipe.yaml").write_text(recipe_text(member), encoding="utf-8")
    render_card(_facts(member, config, cost)).save(folder / "README.md")
    return folder


def family_config(member: Member) -> KASegConfig:
    """The architecture, with the classes of the data."""
    classes = SPECS[member.benchmark.dataset].label_space
    return KASegConfig(
        backbone=member.backbone,
        output_stride=member.output_stride,
        head=member.head,
        id2label=classes.id2label,
        label2id=classes.label2id,
        palette=[list(color) for color in classes.palette],
        architectures=[KASegModel.__name__],
        dtype="float32",
    )


@functools.cache
def _cost(backbone: str, output_stride: int, head: str, num_labels: int) -> dict[str, Any]:
    """Parameters and GFLOPs; of a network without memory for its weights, as shapes are enough."""
    with torch.device("meta"):
        model = KASegModel(
            KASegConfig(backbone=backbone, output_stride=output_stride, head=head, num_labels=num_labels)
        )
    return {"parameters": parameter_count(model), "gflops_513x513": round(gflops(model), 3)}


def _facts(member: Member, config: KASegConfig, cost: dict[str, Any]) -> CardFacts:
    data = DataSource.named(member.benchmark.dataset)
    teacher = TeacherSource(f"{NAMESPACE}/{member.teacher.name}", data.licence) if member.kind == "ka" else None
    return CardFacts(
        name=member.name,
        model_id=f"{NAMESPACE}/{member.name}",
        config=config,
        results=cost,
        data=data,
        loss=loss_weights({line.field: line.value for line in recipe_lines(member)}),
        teacher=teacher,
        command=_command(member),
        trained=False,
        remarks=tuple(_remarks(member)),
    )


def _command(member: Member) -> str:
    """What would train it where data and GPUs are at hand; an adapted student's teacher comes first."""

    def line(command: str, name: str, more: str = "") -> str:
        return f"kaseg {command} --config hub_configs/{name}/recipe.yaml {more}--data-dir DIR --output-dir runs/{name}"

    if member.kind != "ka":
        return line("train", member.name)
    teacher = member.teacher.name
    return f"{line('train', teacher)}\n{line('distill', member.name, f'--teacher runs/{teacher} ')}"


def _remarks(member: Member) -> Iterator[str]:
    benchmark = member.benchmark
    if member.kind != "teacher" and member.output_stride in benchmark.scores:
        plain, adapted = benchmark.scores[member.output_stride]
        yield (
            f"For this student the paper reports {plain} % mean IoU plain and {adapted} % adapted (paper; read from "
            "its Figure 1, by context PASCAL VOC 2012 validation). Those are not scores of this model."
        )
    yield f"`recipe.yaml` says of every value whether it is the paper's or ours, and how sure that is. {benchmark.note}"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main(root: str) -> None:
    """Write the folder of every model below `root` that has no weights there."""
    for member in members():
        folder = Path(root) / member.name
        if not (folder / "model.safetensors").exists():
            print(write_family_folder(member, folder))


if __name__ == "__main__":
    main(sys.argv[1])
