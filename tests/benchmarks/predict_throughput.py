"""Throughput of `Predictor.predict_files`, which `kaseg predict` is, against that of each of its stages alone.

    OMP_NUM_THREADS=2 python tests/benchmarks/predict_throughput.py --output predict_throughput.json

Pictures are synthetic scenes with sensor noise, drawn into a temporary folder; the model is an untrained stride-16
student of 11 classes, prepared as `kaseg predict` does. A stage alone is a plain loop over the same pictures in one
process with torch's threads: decode, preprocess, model (one picture at a time), write (classes of the pixels from the
logits, mask and overlay). The rounds of stages and pipeline take turns; the medians are compared.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from kaseg import KASegConfig, KASegImageProcessor, KASegModel
from kaseg.allocator import keep_freed_memory
from kaseg.data.scenes import render_scene
from kaseg.inference import Predictor, deployed, read_image

SIZES = {"480x360": (360, 480), "1280x720": (720, 1280)}
STAGES = ("decode", "preprocess", "model", "write")
TARGET = 0.9
_DRAWN = 8  # scenes that differ; drawing is slow, and their files are all read anew


def write_files(folder: Path, size: tuple[int, int], suffix: str, count: int) -> list[Path]:
    noise = np.random.default_rng(0)
    paths = []
    for index in range(min(count, _DRAWN)):
        pixels, _ = render_scene(0, index, *size)
        noisy = np.clip(pixels.astype(np.int16) + noise.integers(-4, 5, pixels.shape), 0, 255).astype(np.uint8)
        paths.append(folder / f"{index:04d}.{suffix}")
        Image.fromarray(noisy).save(paths[-1], **({"quality": 90} if suffix == "jpg" else {}))
    for index in range(len(paths), count):
        paths.append(folder / f"{index:04d}.{suffix}")
        paths[-1].write_bytes(paths[index % _DRAWN].read_bytes())
    return paths


@torch.inference_mode()
def time_stages(predictor: Predictor, paths: list[Path], output: Path) -> dict[str, float]:
    """Seconds of each stage over all pictures, one picture at a time."""
    seconds: dict[str, float] = defaultdict(float)
    for path in paths:
        marks = [time.perf_counter()]
        image = read_image(path)
        marks.append(time.perf_counter())
        pixels, size = predictor._prepare(image)
        marks.append(time.perf_counter())
        logits = predictor.model(pixel_values=pixels).logits
        marks.append(time.perf_counter())
        mask = predictor._mask(logits, size)
        predictor._write(path, output / path.stem, image, mask, True)
        marks.append(time.perf_counter())
        for name, start, end in zip(STAGES, marks, marks[1:], strict=False):
            seconds[name] += end - start
    return seconds


def time_pipeline(predictor: Predictor, folder: Path, output: Path) -> float:
    start = time.perf_counter()
    for _ in predictor.predict_files(folder, output):
        pass
    return time.perf_counter() - start


def measure(predictor: Predictor, size: tuple[int, int], suffix: str, count: int, repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder, output = Path(scratch) / "pictures", Path(scratch) / "out"
        folder.mkdir()
        paths = write_files(folder, size, suffix, count)
        time_stages(predictor, paths[:4], output)  # warms up
        rounds = [
            {**time_stages(predictor, paths, output), "pipeline": time_pipeline(predictor, folder, output)}
            for _ in range(repeats)
        ]
    rates = {name: count / statistics.median(row[name] for row in rounds) for name in (*STAGES, "pipeline")}
    slowest = min(STAGES, key=lambda name: rates[name])
    return {"format": suffix, "per_second": rates, "slowest": slowest, "ratio": rates["pipeline"] / rates[slowest]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Throughput of prediction.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--formats", nargs="+", choices=("jpg", "png"), default=["jpg", "png"])
    parser.add_argument("--count", type=int, default=200, help="pictures in the folder")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()

    keep_freed_memory()  # as the command does
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = KASegModel(KASegConfig(backbone="mobilenetv2_100", output_stride=16, num_labels=11))
    predictor = Predictor(deployed(model), KASegImageProcessor())
    print(f"{args.threads} threads; pictures per second, of each stage alone and of all together\n")
    print(f"| pictures | {' | '.join(STAGES)} | pipeline | / slowest stage | target |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for name in args.sizes:
        for suffix in args.formats:
            row = {"size": name, **measure(predictor, SIZES[name], suffix, args.count, args.repeats)}
            rows.append(row)
            rates = " | ".join(f"{row['per_second'][stage]:.1f}" for stage in (*STAGES, "pipeline"))
            print(f"| {name} {suffix} | {rates} | {row['ratio']:.2f} ({row['slowest']}) | {TARGET} |", flush=True)
    if args.output:
        args.output.write_text(
            json.dumps({"torch": torch.__version__, "threads": args.threads, "rows": rows}, indent=2)
        )


if __name__ == "__main__":
    main()
