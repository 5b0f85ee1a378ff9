"""Masks of several models on the same images, to be looked at side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kaseg.image_processing_kaseg import KASegImageProcessor, pixel_values_of
from kaseg.modeling_kaseg import KASegModel


@torch.inference_mode()
def example_masks(checkpoints: Mapping[str, str | Path], dataset: Any, count: int = 6) -> list[dict[str, Any]]:
    """Up to `count` images spread over a dataset (with a length) as dictionaries: `image` (PIL) and `masks`, (H, W)
    train ids, the `"label"` first and then by the name of each checkpoint (the folder of a model and its processor)."""
    models = {
        name: (KASegModel.from_pretrained(folder).eval(), KASegImageProcessor.from_pretrained(folder))
        for name, folder in checkpoints.items()
    }
    count = min(count, len(dataset))
    shown = []
    for index in range(count):
        sample = dataset[index * len(dataset) // count]
        image = sample["image"]
        masks = {"label": sample["label"]}
        for name, (model, processor) in models.items():
            outputs = model(pixel_values=pixel_values_of(processor, image))
            size = (image.height, image.width)
            masks[name] = processor.post_process_semantic_segmentation(outputs, [size])[0].numpy()
        shown.append({"image": image, "masks": masks})
    return shown
