"""Cost of one step of knowledge adaptation against what it cannot do without: a plain step and the teacher's forward.

    python tests/benchmarks/distillation_step.py --threads 2 --bf16 --output distillation_step.json

Times `training_step` and the optimizer of both trainers, as a user runs them, and the teacher's forward pass on the
same batch, taking turns in one process; medians over `--repeats`. Weights are random: they cost what trained ones do.
The ratio is adapted / (plain + teacher). The last column is a step that measures gradients for weights of `auto`, which
one step in `balanced_every` does, over one that does not. `--profile` also lists the operations of the adapted step.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from kaseg import (
    KASegConfig,
    KASegModel,
    KnowledgeAdaptationConfig,
    KnowledgeAdaptationTrainer,
    SegmentationConfig,
    SegmentationTrainer,
)
from kaseg.distillation import FeatureAutoencoder
from kaseg.distillation.autoencoder import FeatureAutoencoderConfig, encoder_strides
from kaseg.evaluation.cost import milliseconds

SIZES = {"camvid": (336, 448), "crop513": (513, 513)}
NUM_LABELS = 11


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--student-stride", type=int, default=16)
    parser.add_argument("--teacher-stride", type=int, default=16)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--profile", action="store_true", help="also print the operations of the adapted step")
    parser.add_argument("--output", type=Path, help="JSON file with every figure")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| size | plain ms | teacher ms | adapted ms | adapted / (plain + teacher) | measuring / adapted |")
    print("|---|---|---|---|---|---|")
    results = []
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as scratch:
            result = {"size": size, "threads": options.threads, "bf16": options.bf16, **measure(size, options, scratch)}
        results.append(result)
        cells = (f"{result[name]:.0f}" for name in ("plain", "teacher", "adapted"))
        print(f"| {size} | {' | '.join(cells)} | {result['ratio']:.3f} | {result['measuring_ratio']:.3f} |", flush=True)
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n")


def measure(size: str, options: argparse.Namespace, scratch: str) -> dict[str, float]:
    """Median milliseconds of the three, and their ratio."""
    torch.manual_seed(0)
    height, width = SIZES[size]
    batch = {
        "pixel_values": torch.randn(options.batch_size, 3, height, width),
        "labels": torch.randint(0, NUM_LABELS, (options.batch_size, height, width)),
    }
    common = dict(output_dir=scratch, use_cpu=True, bf16=options.bf16, report_to="none", max_steps=1000)
    student = KASegConfig(output_stride=options.student_stride, num_labels=NUM_LABELS)
    teacher = KASegModel(KASegConfig(output_stride=options.teacher_stride, head="deeplabv3plus", num_labels=NUM_LABELS))
    strides = encoder_strides(4, options.student_stride)
    plain = SegmentationTrainer(model=KASegModel(student), args=SegmentationConfig(**common))
    autoencoder = FeatureAutoencoder(FeatureAutoencoderConfig(in_channels=256, strides=strides))
    balanced = {"adaptation_weight": "auto", "affinity_weight": "auto", "balanced_every": 1}
    adapted, measuring = (
        KnowledgeAdaptationTrainer(
            model=KASegModel(student),
            teacher=teacher,
            autoencoder=autoencoder,
            args=KnowledgeAdaptationConfig(**common, **fields),
        )
        for fields in ({}, balanced)
    )

    def teach() -> None:
        with adapted.accelerator.autocast():
            adapted.teacher(batch["pixel_values"])

    actions = {"plain": step_of(plain, batch), "teacher": teach, "adapted": step_of(adapted, batch)}
    actions["measuring"] = step_of(measuring, batch)
    medians = {name: statistics.median(taken) for name, taken in milliseconds(actions, options.repeats).items()}
    if options.profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            actions["adapted"]()
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=48))
    ratio = medians["adapted"] / (medians["plain"] + medians["teacher"])
    return {**medians, "ratio": ratio, "measuring_ratio": medians["measuring"] / medians["adapted"]}


def step_of(trainer: SegmentationTrainer, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    """One whole training step of `trainer` on `batch`, as `Trainer.train` does it."""
    trainer.create_optimizer_and_scheduler(num_training_steps=trainer.args.max_steps)
    model = trainer.accelerator.prepare_model(trainer.model)
    model.train()

    def step() -> None:
        count = trainer._get_num_items_in_batch([batch], trainer.args.device)
        trainer.training_step(model, dict(batch), count)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    return step


if __name__ == "__main__":
    main()
