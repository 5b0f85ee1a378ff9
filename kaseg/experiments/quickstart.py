"""The whole road at small scale on the embedded street scenes: teacher, plain student, adapted student, a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
from rich.console import Console
from rich.progress import track
from rich.table import Table

from kaseg.data import SCENES, load_segmentation_dataset
from kaseg.evaluation.latency import milliseconds_per_image
from kaseg.experiments.example_masks import example_masks
from kaseg.experiments.page import write_page
from kaseg.experiments.recipe import DataArguments, ModelArguments, TeacherArguments
from kaseg.experiments.run import distill, train
from kaseg.modeling_kaseg import KASegModel
from kaseg.trainer import KnowledgeAdaptationConfig, SegmentationConfig
from kaseg.writing import write_json

HEIGHT, WIDTH = 96, 128
SCENES_PER_SPLIT = {"train": 240, "validation": 40}
TEACHER = "teacher"
PLAIN = "plain student"
ADAPTED = "adapted student"
HEADER = ("model", "mIoU", "params (M)", "GFLOPs", "ms/image")


def quickstart(output_dir: str | Path, seed: int = 0, steps: int = 240) -> list[dict[str, Any]]:
    """Train a teacher, the plain and the adapted student, print how they compare and write a page with pictures.

    Everything starts from random weights and from scenes that are drawn first, as a folder of images and masks such as
    anyone's own data may be, so nothing is downloaded. The runs are far too short to judge the method by (one seed, a
    few hundred steps): they show the road, not the destination.

    Args:
        output_dir (`str` or `Path`): Folder for the scenes, the three runs, `results.json` and `index.html`. What is
            finished in it is not done again.
        seed (`int`, defaults to 0): Seed of weights, data order and augmentation, the same for both students.
        steps (`int`, defaults to 240): Steps of each of the three trainings; the autoencoder has a third of them.

    Returns:
        One row per model: name, mean_iou, parameters, gflops and milliseconds (per image of 96x128 pixels).
    """
    console = Console()
    root = Path(output_dir)
    scenes = _draw_scenes(root / "scenes", seed)
    data = DataArguments(dataset=str(scenes))
    student = ModelArguments(backbone="mobilenetv2_035", output_stride=32, pretrained_backbone=False)
    teacher = ModelArguments(
        backbone="mobilenetv2_050", output_stride=16, head="deeplabv3plus", pretrained_backbone=False
    )
    console.rule("1/3 teacher: MobileNetV2 x0.5, DeepLabV3+ head, stride 16")
    results = {TEACHER: train(teacher, data, SegmentationConfig(**_arguments(root / "teacher", seed, steps)))}
    console.rule("2/3 plain student: MobileNetV2 x0.35, stride 32")
    results[PLAIN] = train(student, data, SegmentationConfig(**_arguments(root / "plain", seed, steps)))
    console.rule("3/3 adapted student: the same network, taught by the teacher")
    arguments = KnowledgeAdaptationConfig(
        **_arguments(root / "adapted", seed, steps),
        latent_channels=64,
        autoencoder_epochs=0,
        autoencoder_max_steps=max(1, steps // 3),
    )
    results[ADAPTED] = distill(student, data, TeacherArguments(teacher=str(root / "teacher")), arguments)

    folders = {TEACHER: root / "teacher", PLAIN: root / "plain", ADAPTED: root / "adapted"}
    models = {name: KASegModel.from_pretrained(folder) for name, folder in folders.items()}
    rows = _rows(results, milliseconds_per_image(models, HEIGHT, WIDTH))
    console.print(_table(rows))
    write_json(root / "results.json", rows)
    page = write_page(
        root / "index.html",
        title="kaseg quickstart",
        header=HEADER,
        rows=[_cells(row) for row in rows],
        pictures=example_masks(folders, load_segmentation_dataset(scenes, split="validation")),
        names=list(SCENES.names),
        palette=list(SCENES.palette),
    )
    console.print(f"Pictures and numbers: [bold]{page}[/bold]   Models: {root}/teacher, plain, adapted")
    return rows


def _arguments(output_dir: Path, seed: int, steps: int) -> dict[str, Any]:
    """The recipe that all three runs share: AdamW, since SGD needs more steps than a quick start has."""
    return {
        "output_dir": str(output_dir),
        "seed": seed,
        "max_steps": steps,
        "per_device_train_batch_size": 8,
        "crop_size": [HEIGHT, WIDTH],
        "min_scale": 0.5,
        "max_scale": 1.0,
        "optim": "adamw_torch",
        "learning_rate": 3e-3,
        "weight_decay": 0.01,
        "warmup_steps": 20,
        "logging_steps": 50,
        "save_steps": 100,
        "save_total_limit": 1,
        "report_to": "none",
        "dataloader_pin_memory": False,
    }


def _rows(results: dict[str, dict[str, Any]], milliseconds: dict[str, float]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "mean_iou": result["mean_iou"],
            "parameters": result["parameters"],
            "gflops": result["gflops_513x513"],
            "milliseconds": milliseconds[name],
        }
        for name, result in results.items()
    ]


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="embedded street scenes, validation", caption="GFLOPs at 513x513; ms per image of 96x128, CPU")
    for column in HEADER:
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: dict[str, Any]) -> list[str]:
    cost = (f"{row['parameters'] / 1e6:.2f}", f"{row['gflops']:.2f}", f"{row['milliseconds']:.1f}")
    return [row["name"], f"{100 * row['mean_iou']:.1f}", *cost]


def _draw_scenes(folder: Path, seed: int) -> Path:
    """Draw the scenes once: drawing one takes longer than a step's share of training on it."""
    names = folder / "classes.txt"
    if names.is_file():
        return folder
    for split, count in SCENES_PER_SPLIT.items():
        dataset = load_segmentation_dataset("scenes", split=split, num_scenes=count, seed=seed)
        assert isinstance(dataset, datasets.Dataset)
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
        for index in track(range(count), description=f"Drawing {split} scenes"):
            sample = dataset[index]
            sample["image"].save(folder / split / "images" / f"{index:03d}.png")
            sample["label"].save(folder / split / "masks" / f"{index:03d}.png")
    # Written last: it says that the folder is complete.
    names.write_text("\n".join(SCENES.names) + "\n")
    return folder
