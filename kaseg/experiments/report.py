"""What a family of runs says, as JSON, Markdown and one page."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from kaseg.best_effort import best_effort
from kaseg.checkpoints import resolve
from kaseg.data import get_label_space
from kaseg.experiments.comparison import TEACHER, Comparison, Run, finished_runs
from kaseg.experiments.example_masks import example_masks
from kaseg.experiments.page import write_page
from kaseg.experiments.plots import accuracy_against_cost, class_bars, learning_curves
from kaseg.experiments.recipe import DataArguments, build_arguments
from kaseg.experiments.run import load_data
from kaseg.experiments.summary import HEADER, Finished, cells, summarize, to_markdown
from kaseg.model_card.results import RESULTS_NAME
from kaseg.writing import write_atomically, write_json


def write_report(
    comparison: Comparison, output_dir: str | Path, overrides: Mapping[str, Any] | None = None, examples: int = 4
) -> list[dict[str, Any]]:
    """Write `summary.json`, `summary.md`, `summary.html` and `accuracy_against_cost.png` of the finished runs in
    `output_dir`, and return the rows of [`~kaseg.experiments.summary.summarize`]. What cannot be drawn is a warning.

    Args:
        overrides: As in [`~kaseg.experiments.comparison.run_comparison`].
        examples: Number of evaluation images that the page shows with the masks of the first finished seed; with 0 the
            page holds nothing of the dataset.

    Raises:
        FileNotFoundError: no run is finished.
        ValueError: a run was done with another recipe.
    """
    root = Path(output_dir)
    finished = finished_runs(comparison, root, overrides)
    if not finished:
        raise FileNotFoundError(f"{root}: no run of this comparison is finished, so there is nothing to report.")
    teacher = (overrides or {}).get("teacher", comparison.teacher)
    shown = [*_named_teacher(teacher, finished[0][1]), *finished]
    rows = summarize(comparison, shown)
    planned = len(comparison.runs(root, overrides))
    runs = [
        {"run": run.name, "seed": run.seed, "mean_iou": results["mean_iou"], "steps": results["steps"]}
        for run, results in finished
    ]
    first = finished[0][1]
    summary = {
        "dataset": first["dataset"],
        "split": first["split"],
        "protocol": first["protocol"],
        "finished": len(finished),
        "planned": planned,
        "rows": rows,
        "runs": runs,
    }
    where = f"{first['dataset']} {first['split']}, {first['protocol']}; last step; {len(finished)} of {planned} runs"
    write_json(root / "summary.json", summary)
    write_atomically(root / "summary.md", f"{where}\n\n{to_markdown(rows)}")
    kept = f"The figures are in {root / 'summary.json'} and summary.md."
    with best_effort(str(root / "accuracy_against_cost.png"), kept):
        accuracy_against_cost(rows).savefig(root / "accuracy_against_cost.png", dpi=150)
    data_args = build_arguments((DataArguments,), {**comparison.recipe, **(overrides or {})})[0]
    examples_shown: list[dict[str, Any]] = []
    if examples:
        with best_effort("the example masks of the page", kept):
            examples_shown = _examples(finished, root, data_args, examples)
    with best_effort(str(root / "summary.html"), kept):
        space = get_label_space(data_args.dataset, data_args.data_dir, data_args.label_space)
        write_page(
            root / "summary.html",
            title=where,
            header=HEADER,
            rows=[cells(row) for row in rows],
            figures=_plots(rows, shown, kept),
            images=examples_shown,
            names=space.names,
            palette=space.palette,
        )
    return rows


def _plots(rows: list[dict[str, Any]], shown: Finished, kept: str) -> list[tuple[str, Figure]]:
    """The page's figures with their captions; one that cannot be drawn is left out."""
    drawn: list[tuple[str, Figure]] = []
    plots: tuple[tuple[str, Callable[[Any], Figure], Any], ...] = (
        ("Accuracy against cost", accuracy_against_cost, rows),
        ("Learning curves, a line per seed", learning_curves, shown),
        ("IoU per class, mean over seeds", class_bars, rows),
    )
    for caption, draw, data in plots:
        with best_effort(f"the plot {caption!r}", kept):
            drawn.append((caption, draw(data)))
    return drawn


def _named_teacher(teacher: Any, scored: Mapping[str, Any]) -> list[tuple[Run, dict[str, Any]]]:
    """The teacher where it is a checkpoint that tells its results on the data that the runs were scored on."""
    file = Path(resolve(teacher)) / RESULTS_NAME if isinstance(teacher, str) else None
    if file is None or not file.is_file():
        return []
    results = json.loads(file.read_text())
    if any(results.get(key) != scored[key] for key in ("dataset", "split", "protocol")):
        return []
    return [(Run(TEACHER, TEACHER, results["seed"], results["recipe"], distils=False), results)]


def _examples(finished: Finished, root: Path, data_args: DataArguments, count: int) -> list[dict[str, Any]]:
    seed = next((run.seed for run, _ in finished if run.student != TEACHER), None)
    shown = [run for run, _ in finished if run.student == TEACHER or run.seed == seed]
    folders = {run.name: root / run.name for run in shown}
    return example_masks(folders, load_data(data_args)[1], count)
