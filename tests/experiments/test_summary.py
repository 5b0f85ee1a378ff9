import numpy as np
import pytest
from scipy import stats

from kaseg.experiments.comparison import Comparison, Run
from kaseg.experiments.plots import accuracy_against_cost, class_bars, learning_curves
from kaseg.experiments.summary import paired_interval, summarize, to_markdown

COMPARISON = Comparison(
    recipe={}, objectives={"plain": None, "ka": {}}, students={"os16": {}, "os32": {}}, seeds=(1, 2, 3), teacher="x"
)


def _results(mean_iou: float, gflops: float = 5.0, **classes: float) -> dict:
    log = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "distillation/cross_entropy": 0.5}]
    return {
        "mean_iou": mean_iou,
        "parameters": 2_000_000,
        "gflops_513x513": gflops,
        "steps": 2,
        "hardware": "CPU, 2 threads",
        "per_category_iou": classes or {"road": mean_iou},
        "log": [*log, {"step": 2, "eval_mean_iou": mean_iou}],
    }


def _finished(scores: dict[tuple[str, str, int], float]) -> list:
    return [
        (Run(*key, {}, key[1] == "ka"), _results(score, {"teacher": 11.0, "os16": 5.0, "os32": 3.0}[key[0]]))
        for key, score in scores.items()
    ]


PLAIN, ADAPTED = [0.60, 0.62, 0.61], [0.63, 0.64, 0.66]
FULL = {
    ("teacher", "teacher", 1): 0.70,
    **{("os16", "plain", seed): score for seed, score in zip((1, 2, 3), PLAIN, strict=True)},
    **{("os16", "ka", seed): score for seed, score in zip((1, 2, 3), ADAPTED, strict=True)},
    ("os32", "plain", 1): 0.55,
}


def test_means_spreads_and_paired_gains() -> None:
    teacher, plain, adapted, coarse = summarize(COMPARISON, _finished(FULL))
    assert teacher["mean_iou"] == 0.70 and teacher["std"] is None and "gain" not in teacher
    assert plain["mean_iou"] == pytest.approx(np.mean(PLAIN)) and plain["std"] == pytest.approx(np.std(PLAIN, ddof=1))
    assert "gain" not in plain and coarse["std"] is None
    difference = np.subtract(ADAPTED, PLAIN)
    assert adapted["gain"] == pytest.approx(difference.mean())
    expected = stats.ttest_rel(ADAPTED, PLAIN).confidence_interval(0.95)
    assert adapted["gain_interval"] == pytest.approx((expected.low, expected.high))
    assert adapted["gap_closed"] == pytest.approx(difference.mean() / (0.70 - np.mean(PLAIN)))


def test_only_pairs_count() -> None:
    scores = {key: score for key, score in FULL.items() if key not in {("os16", "plain", 1), ("os16", "plain", 2)}}
    adapted = next(row for row in summarize(COMPARISON, _finished(scores)) if row["objective"] == "ka")
    assert adapted["gain"] == pytest.approx(0.66 - 0.61) and adapted["gain_interval"] is None
    assert adapted["mean_iou"] == pytest.approx(np.mean(ADAPTED))
    # The gap is that of the plain runs which have a partner.
    two = {key: score for key, score in FULL.items() if key != ("os16", "ka", 1)}
    adapted = next(row for row in summarize(COMPARISON, _finished(two)) if row["objective"] == "ka")
    assert adapted["gap_closed"] == pytest.approx(adapted["gain"] / (0.70 - np.mean(PLAIN[1:])))
    no_plain = {key: score for key, score in scores.items() if key[1] != "plain"}
    alone = next(row for row in summarize(COMPARISON, _finished(no_plain)) if row["objective"] == "ka")
    assert alone["gain"] is None and alone["gap_closed"] is None


def test_no_gap_to_close_where_the_teacher_is_no_better() -> None:
    rows = summarize(COMPARISON, _finished({**FULL, ("teacher", "teacher", 1): 0.5}))
    assert next(row for row in rows if row["objective"] == "ka")["gap_closed"] is None


def test_classes_that_a_seed_lacks_are_averaged_over_the_others() -> None:
    finished = [
        (Run("os16", "plain", 1, {}, False), _results(0.5, road=0.4, sky=0.6)),
        (Run("os16", "plain", 2, {}, False), _results(0.8, road=0.8)),
    ]
    (row,) = summarize(COMPARISON, finished)
    assert row["per_category_iou"] == pytest.approx({"road": 0.6, "sky": 0.6})


def test_pairs_on_different_hardware_are_named() -> None:
    finished = _finished(FULL)
    for run, results in finished:
        if (run.objective, run.seed) in {("ka", 2), ("ka", 3)}:
            results["hardware"] = "1 x NVIDIA H200"
    adapted = next(row for row in summarize(COMPARISON, finished) if row["objective"] == "ka")
    assert adapted["unlike_pairs"] == [2, 3]
    assert "; seeds 2, 3 against plain runs that round differently)" in to_markdown([adapted])
    alike = next(row for row in summarize(COMPARISON, _finished(FULL)) if row["objective"] == "ka")
    assert alike["unlike_pairs"] == [] and "round" not in to_markdown([alike])


def test_interval_of_one_difference_is_unknown() -> None:
    assert paired_interval([0.1]) is None
    low, high = paired_interval([0.0, 0.2])
    assert (low + high) / 2 == pytest.approx(0.1) and high - low == pytest.approx(2 * 12.7062 * 0.1, rel=1e-4)


def test_markdown() -> None:
    lines = to_markdown(summarize(COMPARISON, _finished(FULL))).splitlines()
    assert lines[2].startswith("| teacher | teacher | 70.0 | 1 |  |")
    assert "| os16 | plain | 61.0 ± 1.0 | 3 |" in lines[3] and "+3.3 (" in lines[4] and "37 %" in lines[4]


def test_figures_show_every_row_and_run() -> None:
    finished = _finished(FULL)
    rows = summarize(COMPARISON, finished)
    axes, paper = accuracy_against_cost(rows).axes
    assert axes.get_legend() is not None and len(paper.lines) == 2
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["teacher", "plain", "ka", "plain (paper)", "adapted (paper)"]
    assert list(paper.lines[1].get_ydata()) == [70.7, 72.5, 72.9, 73.0]
    left, right = learning_curves(finished).axes
    assert len(left.lines) == len(right.lines) == len(finished)
    assert list(left.lines[0].get_ydata()) == [0.5] and list(right.lines[0].get_ydata()) == [70.0]
    assert len(class_bars(rows).axes[0].patches) == len(rows)


def test_pairs_of_which_one_was_compiled_are_named() -> None:
    """`torch_compile` is no part of a recipe, so that arms of one pair may differ in it."""
    finished = _finished(FULL)
    for run, results in finished:
        if run.seed != 3:  # of seed 3, older versions did not say
            results["versions"] = {"torch": "2.15.0" if (run.objective, run.seed) == ("ka", 2) else "2.14.0"}
            results["compiled"] = (run.objective, run.seed) == ("ka", 1)
        elif run.objective == "ka":
            results["compiled"] = True
    adapted = next(row for row in summarize(COMPARISON, finished) if row["objective"] == "ka")
    assert adapted["unlike_pairs"] == [1, 2]
