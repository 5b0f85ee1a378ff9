"""What kaseg is for, in minutes: few masks, many images, and a student that learns the rest from a teacher."""

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import datasets
from rich.console import Console
from rich.table import Table

from kaseg.best_effort import best_effort
from kaseg.data import SCENES, load_segmentation_dataset
from kaseg.evaluation.cost import billions, millions, milliseconds_per_image
from kaseg.experiments.example_masks import example_masks
from kaseg.experiments.page import write_page
from kaseg.experiments.recipe import DataArguments, ModelArguments, TeacherArguments
from kaseg.experiments.run import distill, train
from kaseg.modeling_kaseg import KASegModel
from kaseg.progress import progress_bar
from kaseg.trainer import KnowledgeAdaptationConfig, SegmentationConfig
from kaseg.writing import write_json

HEIGHT, WIDTH = 96, 128
SCENES_PER_SPLIT = {"train": 240, "validation": 40}
MASKS = 8
TEACHER = "teacher"
PLAIN = "plain student"
DISTILLED = "distilled student"
HEADER = ("model", "learned from", "mIoU", "params (M)", "GFLOPs", "ms/image")
COMMANDS = """\
# Your folder: data/train/images, data/train/masks, the same below data/validation, and data/classes.txt
kaseg train --dataset data --head deeplabv3plus --output-dir teacher
kaseg train --dataset data --output-dir plain
kaseg distill --dataset data --output-dir distilled --teacher teacher --unlabelled-dir photos"""


def quickstart(output_dir: str | Path, seed: int = 0, steps: int = 120, pairs: int = 1) -> list[dict[str, Any]]:
    """Train a teacher that knows all masks, then students that know 8 of them: one from these masks alone, one also
    from what the teacher makes of the other images. Print how they compare and write a page with their masks.

    Encoders start from those of the shipped CamVid checkpoints, and the scenes are drawn first, as a folder of images
    and masks such as anyone's own data may be; nothing is downloaded. The runs are short: they show the road and the
    sign of the gain, not its size on real data.

    Args:
        output_dir (`str` or `Path`): Folder for the scenes, the runs, `results.json` and `index.html`. What is
            finished in it is not done again.
        seed (`int`, defaults to 0): Seed of the scenes, of the teacher and of the first pair of students; both students
            of a pair have the same weights, data order and augmentation.
        steps (`int`, defaults to 120): Steps of each training.
        pairs (`int`, defaults to 1): Pairs of students, of as many seeds.

    Returns:
        One row per model: name, learned_from, mean_iou (of all pairs on average), mean_ious, parameters, gflops and
        milliseconds (per image of 96x128 pixels).
    """
    console = Console(markup=False)  # paths are users' own words
    root = Path(output_dir)
    scenes = _draw_scenes(root / "scenes", seed)
    images = SCENES_PER_SPLIT["train"]
    start = "kaseg/mobilenetv2-os16-camvid"
    data = DataArguments(dataset=str(scenes))
    few = DataArguments(dataset=str(scenes), max_labelled_samples=min(MASKS, images - 1))
    teacher = ModelArguments(encoder_from=f"{start}-teacher", output_stride=16, head="deeplabv3plus")
    student = ModelArguments(encoder_from=f"{start}-plain", output_stride=16)
    console.rule(f"teacher: DeepLabV3+, stride 16, all {images} masks")
    results = {TEACHER: [train(teacher, data, SegmentationConfig(**_arguments(root / "teacher", seed, steps)))]}
    for pair in range(seed, seed + pairs):
        console.rule(f"plain student: {MASKS} masks (seed {pair})")
        plain = SegmentationConfig(**_arguments(root / f"plain-{pair}", pair, steps))
        results.setdefault(PLAIN, []).append(train(student, few, plain))
        console.rule(f"distilled student: the same network, the same masks, {images} images (seed {pair})")
        distilled = KnowledgeAdaptationConfig(
            **_arguments(root / f"distilled-{pair}", pair, steps),
            adaptation_weight=0.0,
            affinity_weight=0.0,
            distillation_losses={"knowledge_distillation": {"weight": 1.0, "temperature": 1.0}},
            teacher_view="image",
            teacher_maps_dir=str(root / "teacher_maps"),
        )
        taught = TeacherArguments(teacher=str(root / "teacher"))
        results.setdefault(DISTILLED, []).append(distill(student, few, taught, distilled))

    folders = {TEACHER: root / "teacher", PLAIN: root / f"plain-{seed}", DISTILLED: root / f"distilled-{seed}"}
    models = {name: KASegModel.from_pretrained(folder) for name, folder in folders.items()}
    learned_from = {TEACHER: f"{images} masks", PLAIN: f"{MASKS} masks", DISTILLED: f"{MASKS} masks, teacher"}
    rows = _rows(results, milliseconds_per_image(models, HEIGHT, WIDTH), learned_from)
    gain = _gain(rows)
    write_json(root / "results.json", rows)
    console.print(_table(rows))
    console.print(gain)
    with best_effort(f"the page {root / 'index.html'}", f"The scores are in {root / 'results.json'}."):
        page = write_page(
            root / "index.html",
            title="kaseg quickstart",
            lead=[
                f"A teacher learned street scenes from {images} masks. Two small students know {MASKS} of these masks. "
                f"One learned from them alone, the other also from the teacher's answers on the other {images - MASKS} "
                "images.",
                gain,
                f"Scenes are drawn, runs are {steps} steps long: this shows what distillation does with few masks, not "
                "how much it gains on your data.",
            ],
            header=HEADER,
            words=2,
            rows=[_cells(row) for row in rows],
            images=example_masks(folders, load_segmentation_dataset(scenes, split="validation")),
            names=list(SCENES.names),
            palette=list(SCENES.palette),
            commands=COMMANDS,
        )
        console.print(f"Images, masks and numbers: {page}", soft_wrap=True)
    console.print(f"Models: {', '.join(map(str, folders.values()))}", soft_wrap=True)
    console.print(f"\nWith your own data:\n{COMMANDS}", highlight=False, soft_wrap=True)  # to be copied
    return rows


def _arguments(output_dir: Path, seed: int, steps: int) -> dict[str, Any]:
    """The recipe that all runs share: AdamW, since SGD needs more steps than a quick start has."""
    return {
        "output_dir": str(output_dir),
        "seed": seed,
        "max_steps": steps,
        "per_device_train_batch_size": 8,
        "crop_size": [HEIGHT, WIDTH],
        "min_scale": 0.5,
        "max_scale": 1.0,
        "optim": "adamw_torch",
        "learning_rate": 2e-3,
        "backbone_learning_rate_scale": 0.25,
        "weight_decay": 0.01,
        "warmup_steps": min(20, steps // 2),
        "logging_steps": 20,
        "save_steps": 100,
        "save_total_limit": 1,
        "report_to": "none",
        "dataloader_pin_memory": False,
    }


def _gain(rows: list[dict[str, Any]]) -> str:
    """How much better the distilled students are than their plain twins, in words."""
    scores = {row["name"]: row["mean_ious"] for row in rows}
    gains = [100 * (taught - plain) for taught, plain in zip(scores[DISTILLED], scores[PLAIN], strict=True)]
    words = f"Gain of the teacher: {fmean(gains):+.1f} mIoU"
    if len(gains) == 1:
        return f"{words} (one pair; --pairs 3 gives a spread)."
    return (
        f"{words} on average over {len(gains)} pairs (standard deviation {stdev(gains):.1f}, worst {min(gains):+.1f})."
    )


def _rows(
    results: dict[str, list[dict[str, Any]]], milliseconds: dict[str, float], learned_from: dict[str, str]
) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "learned_from": learned_from[name],
            "mean_iou": fmean(result["mean_iou"] for result in runs),
            "mean_ious": [result["mean_iou"] for result in runs],
            "parameters": runs[0]["parameters"],
            "gflops": runs[0]["gflops_513x513"],
            "milliseconds": milliseconds[name],
        }
        for name, runs in results.items()
    ]


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="embedded street scenes, validation", caption="GFLOPs at 513x513; ms per image of 96x128, CPU")
    for column in HEADER:
        table.add_column(column, justify="left" if column in HEADER[:2] else "right")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: dict[str, Any]) -> list[str]:
    cost = (millions(row["parameters"]), billions(row["gflops"]), f"{row['milliseconds']:.1f}")
    return [row["name"], row["learned_from"], f"{100 * row['mean_iou']:.1f}", *cost]


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
        with progress_bar(f"Drawing {split} scenes", count, "scenes") as bar:
            for index in range(count):
                sample = dataset[index]
                sample["image"].save(folder / split / "images" / f"{index:03d}.png")
                sample["label"].save(folder / split / "masks" / f"{index:03d}.png")
                bar.update()
    # Written last: it says that the folder is complete.
    names.write_text("\n".join(SCENES.names) + "\n")
    return folder
