"""Models x engines x sizes: what is measured, and its table."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from kaseg.benchmark.engines import ENGINES, EngineUnavailable, Run, Size, open_engine
from kaseg.benchmark.models import Logits, build_model
from kaseg.benchmark.peak_memory import peak_memory
from kaseg.evaluation.cost import cpu, gflops, milliseconds, parameter_count
from kaseg.markdown import escaped, table


def benchmark(
    models: Sequence[str],
    engines: Sequence[str] = tuple(ENGINES),
    sizes: Sequence[Size] = ((512, 512),),
    repeats: int = 20,
    memory: bool = True,
    progress: Callable[[str], None] = lambda step: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Latency of one image, peak memory and cost, all in one run and with the engines taking turns.

    Args:
        models: As [`~kaseg.benchmark.models.build_model`] takes them.
        engines: Out of `ENGINES`.
        sizes: (height, width) of the image.
        repeats: Timed passes.
        memory: Also take the peak memory, in a process per row.
        progress: Called with a text before every step.
        clock: As [`~kaseg.evaluation.cost.milliseconds`] takes it.

    Returns:
        Settings and `rows`: `model`, `engine`, `height`, `width`, `parameters`, `gflops`, `median_ms`, `p90_ms`,
        `peak_mib`; where an engine is not available, `reason` in place of times and memory.

    Raises:
        ValueError: Unknown model or engine, or a model that does not take images of this size.
    """
    threads = torch.get_num_threads()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for size in sizes:
            runs: dict[tuple[str, str], Run] = {}
            part: list[dict[str, Any]] = []
            for number, spec in enumerate(models):
                network = build_model(spec)
                cost = {"parameters": parameter_count(network), "gflops": _gflops(network, spec, size)}
                for engine in engines:
                    progress(f"{spec}, {engine}, {size[0]}x{size[1]}")
                    folder = Path(scratch) / f"{number}-{size[0]}x{size[1]}"
                    row = {"model": spec, "engine": engine, "height": size[0], "width": size[1], **cost}
                    part.append(row)
                    try:
                        runs[spec, engine] = open_engine(engine, network, size, folder, threads)
                    except EngineUnavailable as error:
                        row["reason"] = str(error)
                        continue
                    if memory:
                        row["peak_mib"] = peak_memory(spec, engine, size, folder, threads)
            progress(f"timing at {size[0]}x{size[1]}")
            times = milliseconds(runs, repeats, clock)
            for row in part:
                if "reason" not in row:
                    taken = times[str(row["model"]), str(row["engine"])]
                    row["median_ms"] = statistics.median(taken)
                    row["p90_ms"] = float(np.quantile(taken, 0.9))
            rows += part
    return {
        "hardware": cpu(),  # models are never moved to a GPU
        "threads": threads,
        "repeats": repeats,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "rows": rows,
    }


def _gflops(network: Logits, spec: str, size: Size) -> float:
    try:
        return gflops(network, *size)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ValueError(f"{spec} does not take images of {size[0]}x{size[1]}: {error}") from error


def to_markdown(report: dict[str, Any]) -> str:
    """The rows as a table, and below it what was left out and why."""
    header = ("model", "engine", "size", "parameters", "GFLOPs", "median ms", "p90 ms", "peak MiB")
    cells, reasons = [], {}
    for row in report["rows"]:
        if "reason" in row:
            reasons[row["model"], row["engine"]] = row["reason"]
            continue
        peak = f"{row['peak_mib']:.0f}" if "peak_mib" in row else "–"
        size = f"{row['height']}x{row['width']}"
        cost = (f"{row['parameters'] / 1e6:.2f} M", f"{row['gflops']:.2f}")
        times = (f"{row['median_ms']:.1f}", f"{row['p90_ms']:.1f}")
        cells.append((escaped(row["model"]), row["engine"], size, *cost, *times, peak))
    lines = [f"{report['hardware']}; one image, {report['repeats']} passes in turn.", "", table(header, cells)]
    if reasons:
        lines += ["", "Left out:", ""]
        lines += [f"- {model}, {engine}: {reason}" for (model, engine), reason in reasons.items()]
    return "\n".join(lines) + "\n"
