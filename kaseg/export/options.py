"""What to export: the choices of [`~kaseg.export.export_model`]."""

from dataclasses import dataclass
from typing import Literal, get_args

Format = Literal["onnx", "openvino", "torch-export", "executorch", "litert", "transformers", "transformers-js"]
Dtype = Literal["float32", "bf16", "int8"]
Output = Literal["logits", "mask"]
ImageDtype = Literal["uint8", "float32"]

# Which number types can be checked in which format. ONNX Runtime has no bfloat16 convolution for CPUs.
_DTYPES: dict[str, tuple[Dtype, ...]] = {
    "onnx": ("float32", "int8"),
    "openvino": ("float32", "bf16", "int8"),
    "torch-export": ("float32", "bf16"),
    "executorch": ("float32",),
    "litert": ("float32", "int8"),
    "transformers": ("float32",),
    "transformers-js": ("float32", "int8"),
}
_FIXED = {"executorch": "ExecuTorch", "litert": "LiteRT"}


@dataclass(frozen=True)
class ExportOptions:
    """What to export.

    Args:
        format: `"onnx"`, `"openvino"`, `"torch-export"` (a `.pt2` of `torch.export`), `"executorch"` (a `.pte` for
            XNNPACK), `"litert"` (a `.tflite`), `"transformers"` (a `MobileNetV2ForSemanticSegmentation` for
            transformers alone) or `"transformers-js"` (ONNX files and configs for transformers.js; float16 beside what
            `dtype` says).
        dtype: `"float32"`, `"bf16"` (OpenVINO, torch-export) or `"int8"` (ONNX, OpenVINO, LiteRT,
            transformers.js): static post-training quantization.
        output: `"logits"`: the model itself, normalized `pixel_values` (B, C, H, W) in, `logits` at the model's stride
            out. `"mask"`: `image` (B, H, W, C) as it was decoded in, `mask` (B, H, W) of class ids out; normalizing,
            resizing and argmax are part of the graph.
        image_dtype: With `output="mask"`, the type of `image`; float32 values lie in 0..255, too.
        size: (height, width) of a fixed input; its batch is 1. By default batch, height and width are free. For
            transformers, the size to which its image processor resizes.

    Raises:
        ValueError: a choice that is unknown or does not exist for this format; the message says which do.
    """

    format: Format = "onnx"
    dtype: Dtype = "float32"
    output: Output = "logits"
    image_dtype: ImageDtype = "uint8"
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name, kind in (("format", Format), ("dtype", Dtype), ("output", Output), ("image_dtype", ImageDtype)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got {getattr(self, name)!r}.")
        if self.dtype not in _DTYPES[self.format]:
            reason = " (ONNX Runtime has no bfloat16 convolution for CPUs)" if self.format == "onnx" else ""
            *others, last = (name for name, dtypes in _DTYPES.items() if self.dtype in dtypes)
            raise ValueError(
                f"{self.dtype} cannot be exported as {self.format}{reason}; {self.format} takes "
                f"{' and '.join(_DTYPES[self.format])}, and {self.dtype} is exported with --format "
                f"{', '.join(others)} or {last}."
            )
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ValueError(f"size must be (height, width) in pixels, got {self.size}.")
        if self.format in ("transformers", "transformers-js") and self.output == "mask":
            raise ValueError(f"{self.format} takes logits; its own image processor makes masks of them: leave output.")
        if self.format == "transformers-js" and self.size is not None:
            raise ValueError("transformers.js gives the model images of any size: leave size.")
        if self.format in _FIXED and self.size is None:
            raise ValueError(f"Files for {_FIXED[self.format]} have a fixed input: give size (--size 512,512).")

    @property
    def input_name(self) -> str:
        """What the graph's input is called."""
        return "pixel_values" if self.output == "logits" else "image"
