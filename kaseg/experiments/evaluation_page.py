"""The page of one evaluation: scores per class, confusion matrix, and the images that the model does worst on."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from kaseg.data import LabelSpace
from kaseg.evaluation import InferenceProtocol
from kaseg.evaluation.plots import plot_confusion_matrix
from kaseg.evaluation.protocols import WHOLE_IMAGE, predict_masks
from kaseg.evaluation.samples import prepared_batches
from kaseg.experiments.page import write_page
from kaseg.pixels import VOID, to_rgb
from kaseg.progress import progress_bar

_SCORES = {"IoU %": "iou", "Boundary IoU %": "boundary_iou", "Accuracy %": "accuracy"}
# Larger images would make a page of many megabytes; the mask is shown about 200 pixels wide.
_LONGEST_EDGE = 480


def write_evaluation_page(
    path: Path,
    model: Any,
    dataset: Any,
    image_processor: Any,
    results: Mapping[str, Any],
    per_image: Sequence[Mapping[str, Any]],
    label_space: LabelSpace,
    protocol: InferenceProtocol = WHOLE_IMAGE,
) -> Path:
    """Write one HTML file that holds all it shows; its folder is made if missing.

    Args:
        model, dataset, image_processor, protocol: As in [`~kaseg.evaluation.evaluate_model`]; the dataset has a length.
        results, per_image: What it returned, with `model`, `dataset` and `split`, and its table of images, the worst
            first, of which [`worst_images`] shows some.
    """
    header = {title: key for title, key in _SCORES.items() if f"per_category_{key}" in results}
    rows = [
        [name, *(_percent(results[f"per_category_{key}"][name]) for key in header.values())]
        for name in label_space.names
    ]
    rows.append(["mean", *(_percent(results[f"mean_{key}"]) for key in header.values())])
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_page(
        path,
        title=f"{results['model']} on {results['dataset']}, {results['split']}",
        header=["Class", *header],
        rows=rows,
        figures=[("Confusion matrix", plot_confusion_matrix(results["confusion_matrix"], label_space.names))],
        images=worst_images(model, dataset, image_processor, per_image, protocol),
        names=label_space.names,
        palette=label_space.palette,
    )


@torch.inference_mode()
def worst_images(
    model: Any,
    dataset: Any,
    image_processor: Any,
    per_image: Sequence[Mapping[str, Any]],
    protocol: InferenceProtocol = WHOLE_IMAGE,
    count: int = 12,
) -> list[dict[str, Any]]:
    """The images at the head of an evaluation's table, in small, as [`~kaseg.experiments.page.write_page`] takes them:
    with their id and mean IoU, and as masks "label", "prediction", and "wrong", the label where the prediction differs
    from it. Images without labelled pixels are left out."""
    worst = [row for row in per_image if not math.isnan(row["mean_iou"])][:count]
    samples = [dataset[row["index"]] for row in worst]
    was_training = model.training
    model.eval()
    shown = []
    with progress_bar("Worst images", len(worst), "images") as bar:
        for row, sample, batch in zip(worst, samples, prepared_batches(samples, image_processor), strict=True):
            prediction = next(iter(predict_masks(model, batch[0].pixel_values, [batch[0].size], protocol)))
            shown.append(_small(row, to_rgb(sample["image"]), np.asarray(sample["label"]), prediction.cpu().numpy()))
            bar.update()
    model.train(was_training)
    return shown


def _small(row: Mapping[str, Any], image: Image.Image, label: np.ndarray, prediction: np.ndarray) -> dict[str, Any]:
    step = max(1, math.ceil(max(label.shape) / _LONGEST_EDGE))
    label, prediction = label[::step, ::step], prediction[::step, ::step]
    wrong = np.where((prediction != label) & (label != VOID), label, VOID)
    return {
        "image": image.resize((label.shape[1], label.shape[0])),
        "caption": f"{row['id']}: mean IoU {_percent(row['mean_iou'])} %",
        "masks": {"label": label, "prediction": prediction, "wrong (color of the label)": wrong},
    }


def _percent(fraction: float) -> str:
    return "–" if math.isnan(fraction) else f"{100 * fraction:.1f}"
