"""Images of a dataset as inputs of an exported graph, and what quantization does to the mean IoU."""

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import SemanticSegmenterOutput

from kaseg.evaluation.evaluator import evaluate_model
from kaseg.export.graph import graph_resizes
from kaseg.export.options import ExportOptions
from kaseg.export.parity import graph_inputs
from kaseg.export.quantize_onnx import METHODS, CalibrationMethod
from kaseg.export.runtimes.base import ExportedModel
from kaseg.modeling_kaseg import KASegModel
from kaseg.pixels import to_rgb
from kaseg.progress import progress_bar


class QuantizationLossError(ValueError):
    """Quantization costs more mean IoU than was allowed; nothing was kept."""


@dataclass(frozen=True)
class Int8Data:
    """What static quantization needs.

    Args:
        calibration: Dataset whose images (labels are not read) give the ranges of the activations: training images.
        validation: Labelled dataset on which the mean IoU before and after is taken.
        samples: How many images to calibrate on, evenly spread over the dataset.
        methods: Calibration methods to try (ONNX); the one that changes the classes of the calibration images least is
            kept. OpenVINO's quantizer has its own.
        max_loss: Largest loss of mean IoU, in points (hundredths), that is let through. Our choice.
        names: What the two datasets are called in `export.json`, for calibration and validation.

    Raises:
        ValueError: a number is out of range or a method is unknown.
    """

    calibration: Any
    validation: Any
    samples: int = 64
    methods: tuple[CalibrationMethod, ...] = METHODS
    max_loss: float = 1.0
    names: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}.")
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown or not self.methods:
            raise ValueError(f"methods must be among {', '.join(METHODS)}, got {list(self.methods)}.")


class CalibrationInputs(Sequence[np.ndarray]):
    """Some images of a dataset as inputs of the graph, evenly spread over it and prepared when their turn comes; a
    ValueError if the dataset is empty."""

    def __init__(self, data: Int8Data, image_processor: Any, options: ExportOptions) -> None:
        self.dataset, self.methods = data.calibration, data.methods
        total = len(self.dataset)
        if total == 0:
            raise ValueError("The calibration dataset has no images.")
        self.image_processor = image_processor
        self.options = options
        self.places = np.linspace(0, total - 1, min(data.samples, total)).round().astype(int).tolist()

    def __len__(self) -> int:
        return len(self.places)

    def picture(self, place: int) -> Image.Image:
        """The picture in RGB."""
        return to_rgb(self.dataset[self.places[place]]["image"])

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(len(self)))]
        resizes = self.options.size is None and not graph_resizes(self.options) and self.image_processor.do_resize
        picture = _resized(self.options.size, self.picture(place))
        return graph_inputs([picture], self.image_processor, self.options, do_resize=resizes)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[place] for place in range(len(self)))


def mean_iou(
    model: KASegModel | ExportedModel, dataset: Iterable[dict[str, Any]], image_processor: Any, options: ExportOptions
) -> float:
    """Mean IoU of a model or its export on samples with `image` and `label`, as `kaseg evaluate` counts it (whole
    images, single scale), 0..1. With a fixed size the images are resized to it, for both; labels keep their resolution.
    A graph that gives masks resizes once more, as the image processor does."""
    how: dict[str, Any] = {}
    scored: nn.Module = model
    if isinstance(model, ExportedModel) and graph_resizes(options):
        how = {"do_resize": False}
        if options.output == "mask":
            how |= {"do_rescale": False, "do_normalize": False}
            scored = _MaskAsLogits(model, options.image_dtype)
    elif options.size is not None and not graph_resizes(options):
        how = {"do_resize": True, "size": {"height": options.size[0], "width": options.size[1]}}
    prepare = partial(image_processor, **how)
    if graph_resizes(options):
        prepare = partial(_prepare_resized, prepare, options.size)
    what = "the export" if isinstance(model, ExportedModel) else "the model"
    total = len(dataset) if isinstance(dataset, Sized) else None
    with progress_bar(f"Scoring {what}", total, "images") as bar:
        return evaluate_model(scored, dataset, prepare, progress=bar.update)["mean_iou"]


def loss_of_int8(
    model: KASegModel, exported: ExportedModel, image_processor: Any, options: ExportOptions, data: Int8Data
) -> dict[str, Any]:
    """Mean IoU before and after, and what it was taken on; a QuantizationLossError if more is lost than
    `data.max_loss`."""
    before = mean_iou(model, data.validation, image_processor, options)
    after = mean_iou(exported, data.validation, image_processor, options)
    loss = 100 * (before - after)
    if not loss <= data.max_loss:
        raise QuantizationLossError(
            f"int8 costs {loss:.2f} points of mean IoU ({100 * before:.2f} before, {100 * after:.2f} after), allowed "
            f"are {data.max_loss:g}. Nothing was kept. Calibrate on more or other images (--calibration-samples, "
            "--calibration-split), or let more through (--max-loss)."
        )
    calibration_name, validation_name = data.names or (None, None)
    return {
        "mean_iou_before": before,
        "mean_iou_after": after,
        "loss_in_points": loss,
        "validation": validation_name,
        "validation_samples": len(data.validation),
        "calibration": calibration_name,
        "calibration_samples": min(data.samples, len(data.calibration)),
    }


def _resized(size: tuple[int, int] | None, image: Image.Image) -> Image.Image:
    return image if size is None else image.resize(size[::-1], Image.Resampling.BILINEAR)


def _prepare_resized(image_processor: Any, size: tuple[int, int] | None, image: Image.Image, **kwargs: Any) -> Any:
    return image_processor(_resized(size, image), **kwargs)


class _MaskAsLogits(nn.Module):
    """Gives 1 for the class of a mask export and 0 for the others, so that it can be scored like a model."""

    def __init__(self, model: ExportedModel, image_dtype: str) -> None:
        super().__init__()
        self.model = model
        self.config = model.config
        self.image_dtype = image_dtype

    def forward(self, pixel_values: torch.Tensor) -> SemanticSegmenterOutput:
        images = pixel_values.permute(0, 2, 3, 1).numpy().astype(self.image_dtype)
        masks = torch.from_numpy(self.model.masks(images)).long()
        return SemanticSegmenterOutput(logits=F.one_hot(masks, self.config.num_labels).permute(0, 3, 1, 2).float())
