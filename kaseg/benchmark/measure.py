"""Times in turn, and the peak memory of one engine in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

from kaseg.benchmark.engines import Size, open_engine
from kaseg.benchmark.models import build_model

K = TypeVar("K", bound=Hashable)

_WARM_UPS = 3
_MEMORY_PASSES = 3
# Long enough for the threads of the last engine to stop spinning.
_PAUSE = 0.01


def milliseconds(runs: Mapping[K, Callable[[], object]], repeats: int) -> dict[K, list[float]]:
    """Times of every run, which take turns within each repeat, so that a machine that slows down slows all of them.

    Args:
        runs: What to time, by name.
        repeats: How often; three more to warm up are not counted.
    """
    times: dict[K, list[float]] = {name: [] for name in runs}
    for repeat in range(-_WARM_UPS, repeats):
        for name, run in runs.items():
            time.sleep(_PAUSE)
            start = time.perf_counter()
            run()
            if repeat >= 0:
                times[name].append(1000 * (time.perf_counter() - start))
    return times


def peak_memory(spec: str, engine: str, size: Size, folder: Path, threads: int) -> float:
    """MiB that building the engine and running it add, at the peak, to a process that has imported everything.

    The engine's file must have been written before, so that exporting does not count.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_memory, spec, engine, size, folder, threads).result()


def _peak_memory(spec: str, engine: str, size: Size, folder: Path, threads: int) -> float:
    torch.set_num_threads(threads)
    before = _peak_mib()
    run = open_engine(engine, build_model(spec), size, folder, threads)
    for _ in range(_MEMORY_PASSES):
        run()
    return _peak_mib() - before


def _peak_mib() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would also know the parent's peak
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024
