"""How much of a difference in mean IoU is the choice of the images: two models, and their images drawn again.

    python tests/benchmarks/image_noise.py MODEL OTHER --dataset voc2012 --data-dir DIR --label-space FILE

Both are scored on the same images of a split. As many images are then drawn from them with replacement, for both models
the same ones, again and again (Efron's paired bootstrap). Printed are each score with its standard deviation, and the
difference with the range that holds 95 % of the draws.
"""

import argparse
from typing import Any

import numpy as np

from kaseg.cli.models import load_model
from kaseg.data import load_segmentation_dataset
from kaseg.evaluation import ConfusionMatrix
from kaseg.evaluation.protocols import WHOLE_IMAGE
from kaseg.evaluation.samples import predicted_samples, prepared_batches


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs=2, help="folders, shipped names or Hub ids")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data-dir")
    parser.add_argument("--label-space")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--draws", type=int, default=2000)
    args = parser.parse_args()

    dataset = load_segmentation_dataset(
        args.dataset, data_dir=args.data_dir, split=args.split, label_space=args.label_space
    )
    first, second = (matrices(name, dataset) for name in args.models)
    images = np.random.default_rng(0).integers(len(first), size=(args.draws, len(first)))
    drawn = np.array([[mean_iou(found[draw]) for found in (first, second)] for draw in images])
    for name, found, scores in zip(args.models, (first, second), drawn.T, strict=True):
        print(f"{name}: {mean_iou(found):.2f}, standard deviation {scores.std():.2f} over draws of {len(found)} images")
    low, high = np.percentile(drawn[:, 1] - drawn[:, 0], [2.5, 97.5])
    print(f"difference: {mean_iou(second) - mean_iou(first):+.2f}, 95 % of the draws {low:+.2f} to {high:+.2f}")


def matrices(name: str, dataset: Any) -> np.ndarray:
    """The confusion matrix of each image, (N, C, C)."""
    model, processor = load_model(name, None)
    counts = []
    for sample, mask in predicted_samples(model, prepared_batches(dataset, processor), WHOLE_IMAGE):
        confusion = ConfusionMatrix(model.config.num_labels)
        confusion.update(mask.cpu(), sample.labels, sample=sample.name)
        counts.append(confusion.matrix.numpy())
    return np.array(counts)


def mean_iou(counts: np.ndarray) -> float:
    """Of all images together, in %, over the classes that are there."""
    total = counts.sum(axis=0)
    union = total.sum(axis=0) + total.sum(axis=1) - total.diagonal()
    return float(100 * np.mean(total.diagonal()[union > 0] / union[union > 0]))


if __name__ == "__main__":
    main()
