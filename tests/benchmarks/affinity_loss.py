"""Time and memory of `AffinityLoss` against the same loss with the m x m matrices written out.

    python tests/benchmarks/affinity_loss.py --output affinity_loss.json

Prints a Markdown table. Time is that of one forward and backward pass, the median over `--repeats`, with the two losses
taking turns in one process. On a busy machine use `--threads 1 --clock cpu`: threads that wait for one another there
spoil both losses' times, and the smaller one's most. Memory is the peak of all tensors that the pass adds to its
inputs, counted in a run of its own; scratch space inside a single operation is not seen.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from kaseg.distillation.losses import AffinityLoss
from kaseg.evaluation.cost import milliseconds

Loss = Callable[[Tensor, Tensor], Tensor]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def naive_affinity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The plain way to write it: two m x m matrices and the lengths of the rows of their difference."""
    student, teacher = (F.normalize(features.flatten(2), dim=1) for features in (student, teacher))
    difference = student.mT @ student - teacher.mT @ teacher
    return torch.linalg.vector_norm(difference, dim=2).sum(1).mean() / difference.shape[1]


class PeakMemory(TorchDispatchMode):
    """Peak of the bytes held by the storages that operations return, above those of the tensors it is given."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                storage = tensor.untyped_storage()
                self.alive[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return result


def make_inputs(batch: int, channels: int, side: int) -> tuple[Tensor, Tensor]:
    """A signed student's map, as a convolution gives it, and a non-negative code."""
    generator = torch.Generator().manual_seed(side)
    student, teacher = (torch.randn(batch, channels, side, side, generator=generator) for _ in range(2))
    return student.requires_grad_(), teacher.relu()


def peak_bytes(loss: Loss, student: Tensor, teacher: Tensor) -> int:
    student.grad = None
    with PeakMemory(student, teacher) as memory:
        loss(student, teacher).backward()
    return memory.peak


def measure(side: int, batch: int, channels: int, repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    student, teacher = make_inputs(batch, channels, side)
    losses: list[Loss] = [naive_affinity_loss, AffinityLoss()]
    values = [loss(student, teacher).item() for loss in losses]
    if abs(values[0] - values[1]) > 1e-4 * abs(values[0]):
        raise RuntimeError(f"the two losses disagree at {side}x{side}: naive {values[0]}, AffinityLoss {values[1]}")

    def run(loss: Loss) -> None:
        student.grad = None
        loss(student, teacher).backward()

    times = milliseconds({loss: partial(run, loss) for loss in losses}, repeats, clock)
    naive_seconds, our_seconds = (statistics.median(taken) / 1000 for taken in times.values())
    naive_bytes, our_bytes = (peak_bytes(loss, student, teacher) for loss in losses)
    return {
        "side": side,
        "positions": side * side,
        "naive_seconds": naive_seconds,
        "seconds": our_seconds,
        "speedup": naive_seconds / our_seconds,
        "naive_bytes": naive_bytes,
        "bytes": our_bytes,
        "bytes_per_position": our_bytes / side**2 / batch,
    }


def to_row(row: dict[str, float]) -> str:
    return (
        f"| {row['side']}x{row['side']} | {1e3 * row['naive_seconds']:.1f} | {1e3 * row['seconds']:.1f} "
        f"| {row['speedup']:.1f}x | {row['naive_bytes'] / 2**20:.1f} | {row['bytes'] / 2**20:.1f} "
        f"| {row['bytes_per_position'] / 2**10:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Time and memory of AffinityLoss against the m x m matrices.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[33, 65, 97, 129], help="sides of the square maps")
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5, help="timed turns of each loss, after three to warm up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="time passed, or spent by this process")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    print(f"forward + backward, batch {args.batch}, {args.channels} channels, float32")
    print(f"{args.threads} threads, {args.clock} time\n")
    print("| positions | naive ms | ours ms | speedup | naive MiB | ours MiB | ours KiB per position |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for side in args.sizes:
        rows.append(measure(side, args.batch, args.channels, args.repeats, CLOCKS[args.clock]))
        print(to_row(rows[-1]), flush=True)
    if args.output:
        settings = {name: value for name, value in vars(args).items() if name != "output"}
        args.output.write_text(json.dumps({"torch": torch.__version__, **settings, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
