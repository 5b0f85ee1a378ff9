"""What is exported: the model alone, or image in, mask out; and its `torch.export` program."""

import copy
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.image_utils import PILImageResampling, SizeDict

from kaseg.export.options import ExportOptions
from kaseg.export.same_padding import pad_in_whole_numbers
from kaseg.masks import resize_logits
from kaseg.modeling_kaseg import KASegModel
from kaseg.pixels import Normalization, normalize

# OpenVINO reads ONNX's Resize without it, LiteRT cannot convert it, in ExecuTorch it has not been tried.
_ANTIALIASING = ("onnx", "torch-export")


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

    Resizing, rescaling and normalizing as the image processor does them, bilinear resizing (`align_corners=False`) of
    the logits to the image's size and argmax as its `post_process_semantic_segmentation` does them.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, model: KASegModel, image_processor: Any) -> None:
        super().__init__()
        self.logits = LogitsGraph(model)
        self.size = _size_of(image_processor)
        scale, shift = _normalization_of(image_processor, model.config.num_channels).scale_and_shift()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.mask_dtype = torch.uint8 if model.config.num_labels <= 256 else torch.int32

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        pixels = image.permute(0, 3, 1, 2)
        if self.size is not None:
            pixels = resize_pixels(pixels, self.size)
        logits = resize_logits(self.logits(normalize(pixels, self.scale, self.shift)), image.shape[1:3])
        return logits.argmax(dim=1).to(self.mask_dtype)


class ResizingLogitsGraph(MaskGraph):
    """`pixel_values` of images at their own size -> logits of what the image processor's resizing makes of them."""

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        assert self.size is not None
        pixels = resize_pixels((pixel_values - self.shift) / self.scale, self.size)
        return self.logits(normalize(pixels, self.scale, self.shift))


def resize_pixels(pixels: torch.Tensor, size: SizeDict) -> torch.Tensor:
    """Resizes pixels (B, C, H, W) in 0..255 to the `size` of an image processor as Pillow does, bilinear and
    antialiased: row by row, then column by column, each rounded to bytes. Returns float32, whole numbers."""
    height, width = pixels.shape[-2:]
    if size.height:
        new_height, new_width = size.height, size.width
    elif size.longest_edge:
        new_height, new_width = get_size_with_aspect_ratio((height, width), size.shortest_edge, size.longest_edge)
    else:
        shortest = torch.sym_min(height, width)
        new_height, new_width = (size.shortest_edge * edge // shortest for edge in (height, width))
    pixels = pixels.float()
    # A little more than 0.5: sums of engines differ by less, and halves are common.
    for shape in ((height, new_width), (new_height, new_width)):
        pixels = F.interpolate(pixels, size=shape, mode="bilinear", antialias=True).add(0.501).floor()
    return pixels


def graph_resizes(options: ExportOptions) -> bool:
    """Whether the graph resizes the images, if the image processor does: always before transformers.js, since browsers
    resize with other filters."""
    return options.output == "mask" or options.format == "transformers-js"


def _size_of(image_processor: Any) -> SizeDict | None:
    """The size that images are resized to, if they are; a ValueError if it is by another filter, or the image processor
    crops or pads, which no graph does."""
    for what in ("do_center_crop", "do_pad"):
        if getattr(image_processor, what, False):
            raise ValueError(
                f"The image processor has {what}=True, which is not part of an exported graph: export logits instead "
                f"and let the processor prepare the images, or save it with {what}=False."
            )
    if not getattr(image_processor, "do_resize", False):
        return None
    size = image_processor.size if isinstance(image_processor.size, SizeDict) else SizeDict(**image_processor.size)
    if image_processor.resample != PILImageResampling.BILINEAR or not (size.height or size.shortest_edge):
        raise ValueError(
            f"The image processor resizes to {dict(size)} with resample={image_processor.resample!r}; exported graphs "
            "resize bilinearly (resample=2), to height and width or by shortest_edge. Export logits instead and let "
            "the processor prepare the images."
        )
    return size


def _normalization_of(image_processor: Any, num_channels: int) -> Normalization:
    return Normalization.of_options(
        image_processor.do_rescale,
        image_processor.rescale_factor,
        image_processor.do_normalize,
        image_processor.image_mean,
        image_processor.image_std,
        num_channels,
    )


def build_graph(model: KASegModel, image_processor: Any, options: ExportOptions, fuse: bool = True) -> nn.Module:
    """The module to export, in eval mode and on the CPU; the model itself stays as it is. `fuse` folds BatchNorm into
    the convolutions. What a graph resizes and normalizes is taken from the image processor; a ValueError if it cannot
    do that."""
    model = copy.deepcopy(model).cpu().float().eval()
    if fuse:
        model.fuse()
    pad_in_whole_numbers(model)
    if options.dtype == "bf16" and options.format == "torch-export":
        model = model.to(torch.bfloat16)
    if options.output == "mask":
        graph: nn.Module = MaskGraph(model, image_processor)
        if graph.size is not None and options.format not in _ANTIALIASING:
            raise ValueError(
                f"The image processor has do_resize=True, which masks for {options.format} cannot do: of the formats, "
                f"only {' and '.join(_ANTIALIASING)} resize with antialiasing. Export logits and let the processor "
                "prepare the images."
            )
    elif graph_resizes(options) and image_processor.do_resize:
        graph = ResizingLogitsGraph(model, image_processor)
    else:
        graph = LogitsGraph(model)
    if isinstance(graph, MaskGraph) and options.size is None and graph.size is not None and graph.size.longest_edge:
        fixed = "export for a fixed one (kaseg export --size HEIGHT,WIDTH), or " if options.output == "mask" else ""
        raise ValueError(
            "The image processor limits the longest edge, which a graph for images of any size cannot do: "
            f"{fixed}save it without longest_edge."
        )
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

    It does not hold the lines of code that each operator comes from: the formats would write them into their files, and
    with them where Python lies on the disk of whoever exports.

    Raises:
        ValueError: the model cannot be traced.
    """
    free = (0, 2, 3) if options.output == "logits" else (0, 1, 2)
    dynamic = None
    if options.size is None:
        dynamic = {options.input_name: {axis: torch.export.Dim.DYNAMIC for axis in free}}
    try:
        with torch.no_grad():
            program = torch.export.export(
                graph, (example_input(num_channels, options),), dynamic_shapes=dynamic, strict=False
            )
    except Exception as error:
        raise ValueError(
            f"The model cannot be traced by torch.export with {'a fixed' if options.size else 'any'} input size: "
            f"{str(error).strip().partition(chr(10))[0]} "
            + ("" if options.size else "Try a fixed size (--size HEIGHT,WIDTH).")
        ) from error
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program
