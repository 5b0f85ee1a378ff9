"""What a family of runs says: means, spreads and paired gains."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

from kaseg.evaluation.cost import billions, millions
from kaseg.experiments.comparison import TEACHER, Comparison, Run
from kaseg.markdown import escaped, table

Finished = Sequence[tuple[Run, Mapping[str, Any]]]


def summarize(comparison: Comparison, finished: Finished) -> list[dict[str, Any]]:
    """One row per student and objective that has finished runs, the teacher's row first.

    Scores are those of the last step, in 0..1. Gains are differences to the objective that learns from the labels
    alone, seed by seed, so that only seeds which both have finished count.

    Returns:
        Rows with `student`, `objective`, `seeds` (list), `mean_iou` (mean over seeds), `std` (sample standard
        deviation, `None` with one seed), `parameters`, `gflops`, `steps`, `per_category_iou` (means), and for all but
        the teacher and the plain objective `gain` (mean, `None` without a pair), `gain_interval` (95 % of Student's t
        distribution over the paired differences, `None` with fewer than two pairs), `gap_closed`
        (`gain` / (teacher - plain), `None` unless the teacher is the better one) and `unlike_pairs` (seeds whose two
        runs were done on different hardware, with different versions of PyTorch, or one of them compiled
        (`torch_compile`): these round differently, so that the runs differ by more than the objective).
    """
    groups: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    for run, results in finished:
        groups.setdefault((run.student, run.objective), {})[run.seed] = results
    teacher = next(iter(groups.get((TEACHER, TEACHER), {}).values()), None)
    rows = []
    for (student, objective), by_seed in groups.items():
        row = _row(student, objective, by_seed)
        if student != TEACHER and objective != comparison.plain and comparison.plain is not None:
            plain = groups.get((student, comparison.plain), {})
            row.update(_gain(by_seed, plain, None if teacher is None else teacher["mean_iou"]))
        rows.append(row)
    return rows


def paired_interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """Two-sided 95 % interval of Student's t distribution for the mean of `differences`; `None` for fewer than two."""
    if len(differences) < 2:
        return None
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    reach = float(stats.t.ppf(0.975, len(differences) - 1)) * error
    return mean - reach, mean + reach


HEADER = (
    "student",
    "objective",
    "mIoU %",
    "seeds",
    "gain over plain (95 % interval)",
    "gap closed",
    "params M",
    "GFLOPs",
    "steps",
)


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row as text, a cell for each of `HEADER`; scores in percent, gains in points."""
    spread = "" if row["std"] is None else f" ± {100 * row['std']:.1f}"
    closed = row.get("gap_closed")
    return [
        row["student"],
        row["objective"],
        f"{100 * row['mean_iou']:.1f}{spread}",
        str(len(row["seeds"])),
        format_gain(row),
        "" if closed is None else f"{100 * closed:.0f} %",
        millions(row["parameters"]),
        billions(row["gflops"]),
        str(row["steps"]),
    ]


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a Markdown table."""
    return table(HEADER, [[escaped(cell) for cell in cells(row)] for row in rows]) + "\n"


def format_gain(row: Mapping[str, Any]) -> str:
    """Gain and interval of a row in points, empty where there is none."""
    if row.get("gain") is None:
        return ""
    interval = row["gain_interval"]
    reach = "one pair" if interval is None else f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}"
    if row["unlike_pairs"]:
        reach += f"; seeds {', '.join(map(str, row['unlike_pairs']))} against plain runs that round differently"
    return f"{100 * row['gain']:+.1f} ({reach})"


def _row(student: str, objective: str, by_seed: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    results = list(by_seed.values())
    scores = [result["mean_iou"] for result in results]
    classes = {name: None for result in results for name in result["per_category_iou"]}
    return {
        "student": student,
        "objective": objective,
        "seeds": list(by_seed),
        "mean_iou": statistics.fmean(scores),
        "std": statistics.stdev(scores) if len(scores) > 1 else None,
        "parameters": results[0]["parameters"],
        "gflops": results[0]["gflops_513x513"],
        "steps": results[0]["steps"],
        "per_category_iou": {
            name: statistics.fmean(r["per_category_iou"][name] for r in results if name in r["per_category_iou"])
            for name in classes
        },
    }


def _gain(
    adapted: Mapping[int, Mapping[str, Any]], plain: Mapping[int, Mapping[str, Any]], teacher: float | None
) -> dict[str, Any]:
    differences = [result["mean_iou"] - plain[seed]["mean_iou"] for seed, result in adapted.items() if seed in plain]
    if not differences:
        return {"gain": None, "gain_interval": None, "gap_closed": None, "unlike_pairs": []}
    gain = statistics.fmean(differences)
    gap = 0.0
    if teacher is not None:
        gap = teacher - statistics.fmean(plain[seed]["mean_iou"] for seed in adapted if seed in plain)
    return {
        "gain": gain,
        "gain_interval": None if (interval := paired_interval(differences)) is None else list(interval),
        "gap_closed": gain / gap if gap > 0 else None,
        "unlike_pairs": [seed for seed in adapted if seed in plain and _round_differently(adapted[seed], plain[seed])],
    }


def _round_differently(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two runs were computed in different ways, as far as both say: older versions said less."""
    ways = (
        (results["hardware"], results.get("versions", {}).get("torch"), results.get("compiled"))
        for results in (first, second)
    )
    return any(None not in pair and pair[0] != pair[1] for pair in zip(*ways, strict=True))
