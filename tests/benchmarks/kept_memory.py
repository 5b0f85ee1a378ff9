"""What it costs a CPU to get the memory of every map anew from the system: `kaseg.allocator.keep_freed_memory`.

    OMP_NUM_THREADS=2 python tests/benchmarks/kept_memory.py --output kept_memory.json

Times a forward pass of the deployed stride-16 student and a training step of it, each in processes that keep the memory
they free and in processes that do not, taking turns; medians over all passes after the first ones. The weights are
random. Besides: page faults per pass, and the largest size of the process.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from kaseg import KASegConfig, KASegModel
from kaseg.allocator import keep_freed_memory
from kaseg.inference import deployed

_WARM_UP = 3


def forward(size: tuple[int, int]) -> Callable[[], None]:
    model = deployed(_student())
    image = torch.randn(1, 3, *size)

    def run() -> None:
        with torch.inference_mode():
            model(image)

    return run


def step() -> Callable[[], None]:
    """Forward and backward at CamVid size."""
    model = _student().train()
    images = torch.randn(8, 3, 336, 448)

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images).logits
        F.cross_entropy(logits.float(), torch.zeros(logits.shape[0], *logits.shape[2:]).long()).backward()
        model.zero_grad(set_to_none=True)

    return run


def _student() -> KASegModel:
    return KASegModel(KASegConfig(backbone="mobilenetv2_100", output_stride=16, num_labels=11))


CASES: dict[str, Callable[[], Callable[[], None]]] = {
    "forward 480x360": lambda: forward((360, 480)),
    "forward 1280x720": lambda: forward((720, 1280)),
    "training step, 8 crops of 448x336, bf16": step,
}


def measure(case: str, passes: int) -> dict[str, float | list[float]]:
    """In this process: seconds of every pass, page faults per pass, peak memory in MiB."""
    run = CASES[case]()
    for _ in range(_WARM_UP):
        run()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    seconds = []
    for _ in range(passes):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"seconds": seconds, "faults": (usage.ru_minflt - faults) / passes, "peak": usage.ru_maxrss / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3, help="processes of each kind")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--measure", nargs=2, metavar=("CASE", "KEEP"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        case, keep = options.measure
        if keep == "True":
            keep_freed_memory()
        print(json.dumps(measure(case, options.passes)))
        return
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    print("| pass | ms | kept ms | ratio | page faults | kept | peak MiB | kept |\n|---|---|---|---|---|---|---|---|")
    rows = {}
    for case in CASES:
        runs = defaultdict(list)
        for _ in range(options.repeats):
            for keep in (False, True):
                command = [sys.executable, __file__, "--passes", str(options.passes), "--measure", case, str(keep)]
                done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                runs[keep].append(json.loads(done.stdout.splitlines()[-1]))
        rows[case] = row = {
            keep: {
                "ms": 1000 * statistics.median(second for run in found for second in run["seconds"]),
                "faults": statistics.median(run["faults"] for run in found),
                "peak": max(run["peak"] for run in found),
            }
            for keep, found in runs.items()
        }
        cells = [f"{row[False]['ms']:.0f} | {row[True]['ms']:.0f} | {row[True]['ms'] / row[False]['ms']:.2f}"]
        cells += [f"{row[keep][name]:.0f}" for name in ("faults", "peak") for keep in (False, True)]
        print(f"| {case} | {' | '.join(cells)} |", flush=True)
    if options.output:
        options.output.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
