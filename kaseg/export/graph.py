"""What is exported: the model alone, or image in, mask out; and its `torch.export` program."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from kaseg.export.options import ExportOptions
from kaseg.export.same_padding import pad_in_whole_numbers
from kaseg.masks import resize_logits
from kaseg.modeling_kaseg import KASegModel
from kaseg.pixels import Normalization, normalize


class LogitsGraph(nn.Module):
    """`pixel_values`, float32 (B, C, H, W) -> float32 logits (B, num_labels, h, w), whatever the model computes in."""

    def __init__(self, model: KASegModel) -> None:
        super().__init__()
        self.model = model
        self.compute_dtype = model.dtype

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values.to(self.compute_dtype)).logits.float()


class MaskGraph(nn.Module):
    """`image`, (B, H, W, C), values in 0..255 -> class ids (B, H, W), uint8 (int32 above 256 classes).

    Rescaling and normalizing as the image processor does them, bilinear resizing (`align_corners=False`) of the logits
    to the image's size and argmax as its `post_process_semantic_segmentation` does them.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, model: KASegModel, image_processor: Any) -> None:
        super().__init__()
        self.logits = LogitsGraph(model)
        scale, shift = graph_normalization(image_processor, model.config.num_channels).scale_and_shift()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.mask_dtype = torch.uint8 if model.config.num_labels <= 256 else torch.int32

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        pixel_values = normalize(image.permute(0, 3, 1, 2), self.scale, self.shift)
        logits = resize_logits(self.logits(pixel_values), image.shape[1:3])
        return logits.argmax(dim=1).to(self.mask_dtype)


def graph_normalization(image_processor: Any, num_channels: int) -> Normalization:
    """Reads what the image processor does to values.

    Raises:
        ValueError: it resizes or pads, which is not part of an exported graph.
    """
    for what in ("do_resize", "do_center_crop", "do_pad"):
        if getattr(image_processor, what, False):
            raise ValueError(
                f"The image processor has {what}=True, which is not part of an exported graph: export logits instead "
                f"and let the processor prepare the images, or save it with {what}=False."
            )
    return Normalization.of_options(
        image_processor.do_rescale,
        image_processor.rescale_factor,
        image_processor.do_normalize,
        image_processor.image_mean,
        image_processor.image_std,
        num_channels,
    )


def build_graph(model: KASegModel, image_processor: Any, options: ExportOptions, fuse: bool = True) -> nn.Module:
    """The module to export, in eval mode and on the CPU; the model itself stays as it is.

    Args:
        model: The model.
        image_processor: What the normalization of a mask graph is taken from.
        options: What to export.
        fuse: Fold BatchNorm into the convolutions, if the model can do that.
    """
    model = copy.deepcopy(model).cpu().float().eval()
    if fuse:
        model.fuse()
    pad_in_whole_numbers(model)
    if options.dtype == "bf16" and options.format == "torch-export":
        model = model.to(torch.bfloat16)
    graph = LogitsGraph(model) if options.output == "logits" else MaskGraph(model, image_processor)
    return graph.eval().requires_grad_(False)


def example_input(num_channels: int, options: ExportOptions) -> torch.Tensor:
    """An input of the graph, zeros: of the fixed size, or a batch of two of any."""
    height, width = options.size or (128, 160)
    batch = 1 if options.size else 2
    if options.output == "logits":
        return torch.zeros(batch, num_channels, height, width)
    return torch.zeros(batch, height, width, num_channels, dtype=getattr(torch, options.image_dtype))


def export_program(graph: nn.Module, num_channels: int, options: ExportOptions) -> torch.export.ExportedProgram:
    """The graph traced by `torch.export`, with free batch, height and width unless `options.size` fixes them.

    Raises:
        ValueError: the model cannot be traced.
    """
    free = (0, 2, 3) if options.output == "logits" else (0, 1, 2)
    dynamic = None
    if options.size is None:
        dynamic = {options.input_name: {axis: torch.export.Dim.DYNAMIC for axis in free}}
    try:
        with torch.no_grad():
            return torch.export.export(
                graph, (example_input(num_channels, options),), dynamic_shapes=dynamic, strict=False
            )
    except Exception as error:
        raise ValueError(
            f"The model cannot be traced by torch.export with {'a fixed' if options.size else 'any'} input size: "
            f"{str(error).strip().partition(chr(10))[0]} "
            + ("" if options.size else "Try a fixed size (--size HEIGHT,WIDTH).")
        ) from error
