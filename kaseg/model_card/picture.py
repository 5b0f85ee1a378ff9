"""A picture for a card: an image beside the mask that the model gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from kaseg.data.label_spaces import palette_for
from kaseg.image_processing_kaseg import pixel_values_of
from kaseg.modeling_kaseg import KASegModel
from kaseg.pixels import to_rgb

PICTURE_NAME = "example.png"


@torch.no_grad()
def save_example(model: KASegModel, processor: Any, image: Image.Image, folder: str | Path) -> str:
    """Write the picture as `example.png` in `folder`.

    Args:
        model ([`KASegModel`]): The network; its mode and device are left as they are.
        processor ([`KASegImageProcessor`]): Its image processor.
        image (`PIL.Image.Image`): An image that may be published.
        folder (`str` or `Path`): Where to.

    Returns:
        The file's name.
    """
    was_training, parameter = model.training, next(model.parameters())
    image = to_rgb(image)
    pixel_values = pixel_values_of(processor, image).to(parameter.device, parameter.dtype)
    model.eval()
    outputs = model(pixel_values=pixel_values)
    model.train(was_training)
    mask = processor.post_process_semantic_segmentation(outputs, target_sizes=[(image.height, image.width)])[0]
    palette = np.array(model.config.palette or palette_for(model.config.num_labels), dtype=np.uint8)
    both = np.concatenate([np.asarray(image), palette[mask.cpu().numpy()]], axis=1)
    Image.fromarray(both).save(Path(folder) / PICTURE_NAME)
    return PICTURE_NAME
