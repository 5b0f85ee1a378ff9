"""Scoring of a model on a dataset, image by image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kaseg.evaluation.confusion_matrix import ConfusionMatrix, iou_scores

# Also that of SegmentationTrainer.evaluate().
PROTOCOL = "whole image, single scale, dataset level, void ignored"

# Prepared image (1, 3, h, w), labels (H, W) and the sample's name.
_Sample = tuple[Tensor, Tensor, str]


def evaluate_model(
    model: Any,
    dataset: Iterable[dict[str, Any]],
    image_processor: Any,
    batch_size: int = 1,
    device: str | torch.device | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Scores a model as [`~kaseg.trainer.SegmentationTrainer`] does, without a trainer.

    Every image goes through the network whole and once. Its logits are resized to the labels' own resolution
    (bilinearly, `align_corners=False`) and counted into one confusion matrix for the whole dataset, so that memory does
    not grow with the number of images. Images are never padded: neighbours of one size share a batch.

    Args:
        model: A [`KASegModel`], or any model that returns `logits` (B, num_labels, h, w) and has a `config` with
            `num_labels` and `id2label`. It is put in eval mode and back.
        dataset: Samples with `image` (PIL) and `label` (PIL or array (H, W), train ids, 255 void), and perhaps `id`,
            such as [`~kaseg.data.load_segmentation_dataset`] gives, streaming or not.
        image_processor: The model's image processor. If it resizes, the images are scored as it does.
        batch_size: Images per batch at most.
        device: Where to run; the model is moved there. Default: where the model is.
        progress: Called with the number of images that were just scored.

    Returns:
        The scores of [`iou_scores`], with `per_category_iou` and `per_category_accuracy` as dictionaries from class
        name to value (NaN for absent classes), and `num_images`.

    Raises:
        ValueError: there are no images, `batch_size` is below 1, or a label is out of range; the message names the
            sample.

    Example:

    ```python
    >>> from kaseg import KASegConfig, KASegImageProcessor, KASegModel
    >>> from kaseg.data import SCENES, load_segmentation_dataset
    >>> from kaseg.evaluation.evaluator import evaluate_model

    >>> scenes = load_segmentation_dataset("scenes", split="validation", num_scenes=2)
    >>> model = KASegModel(KASegConfig(output_stride=32, id2label=SCENES.id2label, label2id=SCENES.label2id))
    >>> evaluate_model(model, scenes, KASegImageProcessor())["num_images"]
    2
    ```
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    if device is not None:
        model.to(device)
    parameter = next(model.parameters())
    confusion = ConfusionMatrix(model.config.num_labels, device=parameter.device)
    count = 0
    was_training = model.training
    model.eval()
    try:
        for batch in _batches(dataset, image_processor, batch_size):
            _count(model, batch, confusion)
            count += len(batch)
            if progress is not None:
                progress(len(batch))
    finally:
        model.train(was_training)
    if count == 0:
        raise ValueError("There are no images to score.")
    scores = iou_scores(confusion.matrix)
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    for key in ("per_category_iou", "per_category_accuracy"):
        scores[key] = dict(zip(names, scores[key], strict=True))
    return {"num_images": count, **scores}


def protocol_of(image_processor: Any) -> str:
    """How scores of [`evaluate_model`] come about, in words; says so if the image processor resizes."""
    if getattr(image_processor, "do_resize", False):
        return f"{PROTOCOL}, images resized to {dict(image_processor.size)}"
    return PROTOCOL


def _batches(dataset: Iterable[dict[str, Any]], image_processor: Any, batch_size: int) -> Iterator[list[_Sample]]:
    """Runs of neighbouring samples whose prepared images have one size."""
    batch: list[_Sample] = []
    for index, sample in enumerate(dataset):
        # Padding would be scored as part of the image.
        inputs = image_processor(sample["image"], do_pad=False, return_tensors="pt")
        labels = torch.from_numpy(np.array(sample["label"], dtype=np.int64))
        prepared = (inputs["pixel_values"], labels, str(sample.get("id", index)))
        if batch and (len(batch) == batch_size or batch[0][0].shape != prepared[0].shape):
            yield batch
            batch = []
        batch.append(prepared)
    if batch:
        yield batch


@torch.inference_mode()
def _count(model: nn.Module, batch: list[_Sample], confusion: ConfusionMatrix) -> None:
    parameter = next(model.parameters())
    pixel_values = torch.cat([image for image, _, _ in batch]).to(parameter.device, parameter.dtype)
    logits = model(pixel_values=pixel_values).logits
    # One image at a time: its full-size logits are the largest tensor of an evaluation.
    for scores, (_, labels, name) in zip(logits, batch, strict=True):
        scores = F.interpolate(scores[None].float(), labels.shape, mode="bilinear", align_corners=False)
        confusion.update(scores.argmax(dim=1)[0], labels.to(parameter.device), sample=name)
