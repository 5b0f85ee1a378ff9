"""Speed of kaseg's mean IoU against the usual ways to count it, all of which must give the same scores.

    python tests/benchmarks/segmentation_metric.py --output segmentation_metric.json

Prints a Markdown table. Time is that of one pair of masks (prediction, reference), the median over `--repeats`. The
metrics take turns in one process; each turn begins with an untimed pair, so that none pays for what another left in the
caches. The compared ways are:

- `evaluate`: the algorithm of `evaluate`'s `mean_iou` (which is mmsegmentation's), written here from its definition:
  per image, copies without void and three histograms. As a user has it, `evaluate` adds the way of every mask through
  Arrow, which is not counted here.
- `scikit-learn`: `confusion_matrix` on the pixels that are not void, accumulated.
- `torchmetrics`: `JaccardIndex(task="multiclass", ignore_index=255)`.

On a busy machine use `--threads 1 --clock cpu`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import confusion_matrix
from torchmetrics import JaccardIndex

from kaseg.evaluation import ConfusionMatrix, MeanIoU, iou_scores

VOID = 255
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Pair = tuple[np.ndarray, np.ndarray]


# What counts a pair of masks, and what gives the IoU of each class afterwards.
Way = tuple[Callable[[np.ndarray, np.ndarray], None], Callable[[], np.ndarray]]


def evaluates_algorithm(num_labels: int) -> Way:
    """Areas of intersection, prediction and reference, added up over images."""
    areas = np.zeros((3, num_labels))

    def update(prediction: np.ndarray, reference: np.ndarray) -> None:
        prediction, reference = np.array(prediction), np.array(reference)  # it copies what it is given
        labelled = reference != VOID
        prediction, reference = prediction[labelled], reference[labelled]
        for row, values in enumerate((prediction[prediction == reference], prediction, reference)):
            areas[row] += np.histogram(values, bins=num_labels, range=(0, num_labels - 1))[0]

    def iou() -> np.ndarray:
        intersection, predicted, referred = areas
        with np.errstate(invalid="ignore"):
            return intersection / (predicted + referred - intersection)

    return update, iou


def scikit_learn(num_labels: int) -> Way:
    """scikit-learn's confusion matrix of every image, added up."""
    counts = np.zeros((num_labels, num_labels), dtype=np.int64)

    def update(prediction: np.ndarray, reference: np.ndarray) -> None:
        labelled = reference != VOID
        counts[:] += confusion_matrix(reference[labelled], prediction[labelled], labels=np.arange(num_labels))

    return update, lambda: np.array(iou_scores(counts)["per_category_iou"])


def torchmetrics(num_labels: int) -> Way:
    metric = JaccardIndex(task="multiclass", num_classes=num_labels, ignore_index=VOID, average="none")
    return lambda *pair: metric.update(*map(torch.from_numpy, pair)), lambda: metric.compute().double().numpy()


def our_matrix(num_labels: int) -> Way:
    matrix = ConfusionMatrix(num_labels)
    return matrix.update, lambda: np.array(iou_scores(matrix.matrix)["per_category_iou"])


def our_metric(num_labels: int) -> Way:
    """kaseg's `evaluate.Metric`."""
    metric = MeanIoU(num_labels=num_labels)
    return (
        lambda prediction, reference: metric.add_batch(predictions=[prediction], references=[reference]),
        lambda: np.array(metric.compute()["per_category_iou"]),
    )


WAYS: dict[str, Callable[[int], Way]] = {
    "ConfusionMatrix": our_matrix,
    "MeanIoU": our_metric,
    "evaluate": evaluates_algorithm,
    "scikit-learn": scikit_learn,
    "torchmetrics": torchmetrics,
}


def make_pairs(count: int, side: int, num_labels: int, dtype: type) -> list[Pair]:
    """Masks of flat regions with 5 % of void; a fifth of the predictions is wrong. All classes occur."""
    rng = np.random.default_rng(num_labels)
    pairs = []
    for _ in range(count):
        regions = rng.integers(0, num_labels, (side // 16, side // 16))
        reference = np.kron(regions, np.ones((16, 16), np.int64))
        wrong = rng.random(reference.shape) < 0.2
        prediction = np.where(wrong, rng.integers(0, num_labels, reference.shape), reference)
        reference[rng.random(reference.shape) < 0.05] = VOID
        pairs.append((prediction.astype(dtype), reference.astype(dtype)))
    return pairs


def measure(num_labels: int, dtype: type, side: int, repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median milliseconds of each way. Raises a RuntimeError if their scores differ."""
    pairs = make_pairs(4, side, num_labels, dtype)
    ways = {name: way(num_labels) for name, way in WAYS.items()}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):  # the first turn warms up
        for name, (update, _) in ways.items():
            update(*pairs[0])
            start = clock()
            for pair in pairs[1:]:
                update(*pair)
            taken[name].append((clock() - start) / (len(pairs) - 1))
    scores = {name: iou() for name, (_, iou) in ways.items()}
    for name, iou in scores.items():
        if not np.allclose(iou, scores["evaluate"], rtol=1e-5, equal_nan=True):
            raise RuntimeError(f"{name} and evaluate disagree on {num_labels} classes of {dtype.__name__}.")
    return {name: 1e3 * statistics.median(times[1:]) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Speed of kaseg's mean IoU against others.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--side", type=int, default=512, help="side of the square masks, a multiple of 16")
    parser.add_argument("--classes", type=int, nargs="+", default=[21, 150])
    parser.add_argument("--repeats", type=int, default=15, help="timed turns of each, after one to warm up")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="time passed, or spent by this process")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()

    print(f"one pair of {args.side}x{args.side} masks, {args.clock} time, median of {args.repeats}\n")
    others = [name for name in WAYS if name != "ConfusionMatrix"]
    print(f"| classes | type | threads | ConfusionMatrix ms | {' | '.join(f'{name} ms (ratio)' for name in others)} |")
    print("|---" * (4 + len(others)) + "|")
    rows = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        for num_labels in args.classes:
            for dtype in (np.uint8, np.int64):
                times = measure(num_labels, dtype, args.side, args.repeats, CLOCKS[args.clock])
                ours = times["ConfusionMatrix"]
                cells = [f"{times[name]:.2f} ({times[name] / ours:.1f}x)" for name in others]
                print(f"| {num_labels} | {dtype.__name__} | {threads} | {ours:.3f} | {' | '.join(cells)} |", flush=True)
                rows.append({"classes": num_labels, "type": dtype.__name__, "threads": threads, "ms": times})
    if args.output:
        settings = {name: value for name, value in vars(args).items() if name != "output"}
        args.output.write_text(json.dumps({"torch": torch.__version__, **settings, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
