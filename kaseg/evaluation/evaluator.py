"""Scoring of a model on a dataset, image by image."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch

from kaseg.configuration_kaseg import require_classes
from kaseg.data.bad_samples import ON_ERROR, BadSamples
from kaseg.evaluation.boundary import BoundaryCounts, boundary_scores
from kaseg.evaluation.caution import caution
from kaseg.evaluation.confusion_matrix import ConfusionMatrix, iou_scores
from kaseg.evaluation.per_image import image_row, worst_first
from kaseg.evaluation.processes import Processes
from kaseg.evaluation.protocols import WHOLE_IMAGE, InferenceProtocol
from kaseg.evaluation.samples import PreparedSample, predicted_samples, prepared_batches
from kaseg.finite import require_finite

logger = logging.getLogger(__name__)

# Also that of SegmentationTrainer.evaluate().
PROTOCOL = WHOLE_IMAGE.describe()


def evaluate_model(
    model: Any,
    dataset: Iterable[dict[str, Any]],
    image_processor: Any,
    batch_size: int = 1,
    device: str | torch.device | None = None,
    progress: Callable[[int], None] | None = None,
    protocol: InferenceProtocol = WHOLE_IMAGE,
    num_workers: int = 0,
    on_error: str = "raise",
) -> dict[str, Any]:
    """Scores a model; by default as [`~kaseg.trainer.SegmentationTrainer`] does, without a trainer.

    Predictions are made at the labels' own resolution and counted into one confusion matrix for the whole dataset.
    Nothing else is kept but four numbers per image, and no more than one image's full-size logits exist at once. Images
    are never padded: neighbors of one size share a batch. Pixels whose label is 255 (void) count nowhere.

    Under torchrun or `accelerate launch` the processes share the images, none twice, and all return the scores of the
    whole dataset. With `batch_size=1` the counts are exactly those of one process; in larger batches images have other
    neighbors then, which may change a logit's last digit.

    Args:
        model: A [`KASegModel`], or any model that returns `logits` (B, num_labels, h, w) and has a `config` with
            `num_labels` and `id2label`. It is put in eval mode and back.
        dataset: Samples with `image` (PIL) and `label` (PIL or array (H, W), train ids, 255 void), and perhaps `id`,
            such as [`~kaseg.data.load_segmentation_dataset`] gives, streaming or not.
        image_processor: The model's image processor. If it resizes, the images are scored as it does.
        batch_size: Images per batch at most; with sliding windows, windows.
        device: Where to run; the model is moved there. Default: where the model is.
        progress: Called with the number of images that were just scored by this process.
        protocol: How the network is run over an image. Default: on the whole image, once.
        num_workers: Processes that read and prepare images while the network runs; not for streams.
        on_error: What to do about samples that cannot be prepared, such as strips of which the processor's resizing
            leaves nothing: "raise", or "skip", which leaves them out and lists them in one warning. (Files that cannot
            be read are the dataset's to skip.)

    Returns:
        The scores of [`iou_scores`] and [`~kaseg.evaluation.boundary.boundary_scores`], the `per_category_*` ones as
        dictionaries from class name to value (NaN for absent classes); `num_images`; `confusion_matrix`, C rows
        (reference) of C counts; `caution`, a sentence, where labels or predictions are of one class alone; and
        `per_image`, rows of [`~kaseg.evaluation.per_image.image_row`] with the image's `index`, worst first.

    Raises:
        ValueError: The model's classes cannot be scored ([`~kaseg.configuration_kaseg.require_classes`]), there are no
            images or no labelled pixels, an argument is out of range, an image has no labels or cannot be prepared, the
            two differ in size, or a label is out of range; the message names the sample.

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
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error is {on_error!r}; it must be one of {', '.join(ON_ERROR)}.")
    if device is not None:
        model.to(device)
    counts = _Counts(model)
    processes = Processes.join(use_cpu=counts.device.type == "cpu")
    bad = BadSamples("Data to be scored", skip=on_error == "skip")
    batches = prepared_batches(dataset, image_processor, batch_size, num_workers, processes, bad=bad)
    for sample, mask in predicted_samples(model, batches, protocol, progress):
        counts.add(sample, mask)
    return counts.scores(model, processes, bad)


def protocol_of(image_processor: Any, protocol: InferenceProtocol = WHOLE_IMAGE) -> str:
    """How scores of [`evaluate_model`] come about, in words; says so if the image processor resizes."""
    words = [protocol.describe()]
    if getattr(image_processor, "do_resize", False):
        size = dict(image_processor.size)
        words += [
            phrase.format(**size)
            for name, phrase in (
                ("shortest_edge", "short edge resized to {shortest_edge}"),
                ("longest_edge", "long edge resized to at most {longest_edge}"),
                ("height", "images resized to {height}x{width}"),
            )
            if size.get(name) is not None
        ]
    return ", ".join(words)


class _Counts:
    """All that an evaluation keeps."""

    def __init__(self, model: Any) -> None:
        self.device = next(model.parameters()).device
        require_classes(model.config, type(model).__name__)
        require_finite(model, f"The model ({type(model).__name__})")
        num_labels = model.config.num_labels
        self.confusion = ConfusionMatrix(num_labels, device=self.device)
        self.boundary = BoundaryCounts(num_labels, device=self.device)
        self.image = ConfusionMatrix(num_labels, device=self.device)
        self.rows: list[dict[str, Any]] = []

    def add(self, sample: PreparedSample, mask: torch.Tensor) -> None:
        if sample.labels is None:
            raise ValueError(
                f"Sample {sample.name} has no labels, so there is nothing to score. Evaluate a labelled split; for "
                "a test split without labels, `kaseg submit` writes the predictions for the benchmark's server."
            )
        labels = sample.labels.to(self.device)
        self.image.reset()
        self.image.update(mask, labels, sample=sample.name)
        self.confusion.merge(self.image)
        self.boundary.update(mask, labels)
        self.rows.append(image_row(sample.name, self.image.matrix) | {"index": sample.index})

    def scores(self, model: Any, processes: Processes, bad: BadSamples) -> dict[str, Any]:
        own = (self.confusion.matrix.cpu(), self.boundary.counts.cpu(), self.rows)
        matrices, boundaries, tables = zip(*processes.gather(own), strict=True)
        matrix, boundary = torch.stack(matrices).sum(dim=0), torch.stack(boundaries).sum(dim=0)
        rows = sorted((row for table in tables for row in table), key=lambda row: row["index"])
        bad.found = [sample for found in processes.gather(bad.found) for sample in found]
        if processes.is_main or not rows:
            bad.warn(len(rows))
        if not rows:
            raise ValueError("There are no images to score.")
        if not matrix.any():
            raise ValueError(
                f"Not one of the {len(rows)} images has a labelled pixel (all are void, 255), so there is nothing to "
                "score."
            )
        scores = {**iou_scores(matrix), **boundary_scores(boundary)}
        if words := caution(scores):
            logger.warning(f"mean_iou {scores['mean_iou']:.4f}: {words}")
            scores["caution"] = words
        names = [model.config.id2label[index] for index in range(model.config.num_labels)]
        for key, values in scores.items():
            if key.startswith("per_category"):
                scores[key] = dict(zip(names, values, strict=True))
        details = {"confusion_matrix": matrix.tolist(), "per_image": worst_first(rows)}
        return {"num_images": len(rows), **scores, **details}
