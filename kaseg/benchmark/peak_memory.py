"""The peak memory of one engine in a process of its own."""

import multiprocessing
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from kaseg.benchmark.engines import Size, open_engine
from kaseg.benchmark.models import build_model

_MEMORY_PASSES = 3


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
