"""Images of a dataset as inputs of an exported graph, and what quantisation does to the mean IoU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import SemanticSegmenterOutput

from kaseg.evaluation.evaluator import evaluate_model
from kaseg.export.options import ExportOptions
from kaseg.export.parity import graph_inputs
from kaseg.export.runtimes.base import ExportedModel
from kaseg.modeling_kaseg import KASegModel
from kaseg.pixels import to_rgb
from kaseg.progress import progress_bar


class CalibrationInputs(Sequence[np.ndarray]):
    """Some images of a dataset, evenly spread over it, prepared when their turn comes.

    Args:
        dataset: Samples with `image` (PIL), with a length.
        image_processor: Makes `pixel_values` of them.
        options: What is exported; images are resized to a fixed size.
        count: How many at most.

    Raises:
        ValueError: the dataset is empty.
    """

    def __init__(self, dataset: Any, image_processor: Any, options: ExportOptions, count: int) -> None:
        if len(dataset) == 0:
            raise ValueError("The calibration dataset has no images.")
        self.dataset = dataset
        self.image_processor = image_processor
        self.options = options
        self.places = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int).tolist()

    def __len__(self) -> int:
        return len(self.places)

    def picture(self, place: int) -> Image.Image:
        """The picture in RGB."""
        return to_rgb(self.dataset[self.places[place]]["image"])

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(len(self)))]
        picture = self.picture(place)
        if self.options.size is not None:
            height, width = self.options.size
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        return graph_inputs([picture], self.image_processor, self.options)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[place] for place in range(len(self)))


def mean_iou(
    model: KASegModel | ExportedModel, dataset: Iterable[dict[str, Any]], image_processor: Any, options: ExportOptions
) -> float:
    """Mean IoU on a dataset as `kaseg evaluate` counts it (whole images, single scale), 0..1.

    With a fixed size the images are resized to it, for the model as for its export; labels keep their resolution.

    Args:
        model: The model, or an export of it.
        dataset: Samples with `image` and `label`.
        image_processor: The model's.
        options: What was exported.
    """
    how: dict[str, Any] = {}
    if options.size is not None:
        how = {"do_resize": True, "size": {"height": options.size[0], "width": options.size[1]}}
    scored: nn.Module = model
    if isinstance(model, ExportedModel) and options.output == "mask":
        how |= {"do_rescale": False, "do_normalize": False}
        scored = _MaskAsLogits(model, options.image_dtype)
    what = "the export" if isinstance(model, ExportedModel) else "the model"
    total = len(dataset) if isinstance(dataset, Sized) else None
    with progress_bar(f"Scoring {what}", total, "images") as bar:
        return evaluate_model(scored, dataset, partial(image_processor, **how), progress=bar.update)["mean_iou"]


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
