"""Encoders: any timm trunk that offers feature maps, at a chosen output stride."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional as F

DILATABLE_EXAMPLES = "mobilenetv2_100, mobilenetv3_large_100, efficientnet_b0, resnet50, convnext_tiny"


class Encoder(nn.Module):
    """A timm feature extractor whose deepest map lies at `output_stride`.

    Strides that are too large are replaced by dilation inside timm, so the weights of one trunk fit every stride.

    Args:
        name (`str`): A timm model name, e.g. `"mobilenetv2_100"` or `"resnet50"`.
        output_stride (`int`): 4, 8, 16 or 32, as far as the trunk can dilate.
        in_channels (`int`): Channels of the image.
        model_kwargs (`dict`, *optional*): Further keyword arguments of `timm.create_model`, e.g.
            `{"pad_type": "same", "bn_eps": 1e-3}` for TensorFlow's padding and BatchNorm epsilon.

    Raises:
        ValueError: unknown trunk, no feature maps, or a stride that the trunk cannot give.
    """

    def __init__(
        self, name: str, output_stride: int = 16, in_channels: int = 3, model_kwargs: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.name = name
        self.create_kwargs: dict[str, Any] = {"features_only": True, "in_chans": in_channels, **(model_kwargs or {})}
        if output_stride != 32:
            self.create_kwargs["output_stride"] = output_stride
        try:
            self.body = timm.create_model(name, pretrained=False, **self.create_kwargs)
        except (AssertionError, TypeError, RuntimeError, AttributeError) as error:
            raise ValueError(_explain_failure(name, output_stride, error)) from error
        self.channels: list[int] = list(self.body.feature_info.channels())
        self.reductions: list[int] = list(self.body.feature_info.reduction())
        if self.reductions[-1] != output_stride:
            raise ValueError(
                f"timm encoder {name!r} ends at stride {self.reductions[-1]}, not at the requested output_stride="
                f"{output_stride}. Set output_stride={self.reductions[-1]} or choose a trunk that can dilate: "
                f"{DILATABLE_EXAMPLES}."
            )
        self.pads_input = not self._rounds_up(in_channels)

    @torch.no_grad()
    def _rounds_up(self, in_channels: int) -> bool:
        """Whether maps are ceil(size / stride), found by a shape-only pass on a size that no stride divides."""
        tensors = {name: t.to("meta") for name, t in [*self.body.named_parameters(), *self.body.named_buffers()]}
        was_training = self.body.training
        self.body.eval()
        try:
            image = torch.zeros(1, in_channels, 33, 33, device="meta")
            features = torch.func.functional_call(self.body, tensors, (image,))
        except (RuntimeError, AssertionError, ValueError):
            return False
        finally:
            self.body.train(was_training)
        return all(f.shape[-1] == -(-33 // r) for f, r in zip(features, self.reductions, strict=True))

    def forward(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """(B, C, H, W) image -> feature maps from fine to coarse, each (B, c_i, ceil(H / r_i), ceil(W / r_i)).

        Trunks that cannot take every size get the image padded with zeros at the bottom and the right, and what belongs
        to the padding is cut off their maps."""
        height, width = pixel_values.shape[-2:]
        if self.pads_input:
            # Trunks that cut the image into patches (ConvNeXt) would drop the last rows and columns, or fail.
            stride = self.reductions[-1]
            pixel_values = F.pad(pixel_values, (0, -width % stride, 0, -height % stride))
        features = self.body(pixel_values)
        # Some transformers of timm (Swin) give (B, H, W, C).
        features = [
            f.permute(0, 3, 1, 2) if f.shape[1] != c and f.shape[-1] == c else f
            for f, c in zip(features, self.channels, strict=True)
        ]
        if self.pads_input:
            features = [
                f[..., : -(-height // r), : -(-width // r)] for f, r in zip(features, self.reductions, strict=True)
            ]
        return features

    def skip_index(self, stride: int) -> int:
        """Index of the first feature map at `stride` (or just coarser): where a decoder takes its skip connection."""
        return next((i for i, r in enumerate(self.reductions) if r >= stride), len(self.reductions) - 1)

    def load_pretrained(self, file: str | Path | None = None) -> None:
        """Copy timm's pretrained weights into the trunk.

        Args:
            file (`str` or `Path`, *optional*): Local weights in timm's own layout. Without it timm downloads those
                that belong to the encoder's name.

        Raises:
            FileNotFoundError: `file` does not exist.
            RuntimeError: timm has no weights for this encoder, they could not be fetched, or they do not fit.
            ValueError: `file` is damaged, or a pickle with more than tensors in it.
        """
        kwargs = dict(self.create_kwargs)
        if file is not None:
            if not Path(file).is_file():
                raise FileNotFoundError(f"Encoder weights not found: {file}. Expected a file in timm's layout.")
            kwargs["pretrained_cfg_overlay"] = {"state_dict": _read_weights(Path(file))}
        # timm strips the classifier and adapts the first convolution only while it creates a model.
        try:
            source = timm.create_model(self.name, pretrained=True, **kwargs)
        except (OSError, RuntimeError) as error:
            where = f"the file {file}" if file is not None else "timm's download"
            raise RuntimeError(
                f"Could not load pretrained weights of encoder {self.name!r} from {where}: {error}. "
                "Give a local file (backbone_weights=...) or train without (pretrained_backbone=False)."
            ) from error
        self.body.load_state_dict(source.state_dict())


def _read_weights(file: Path) -> dict[str, torch.Tensor]:
    """A state dict from safetensors, or from a pickle of which nothing but tensors is read."""
    try:
        return timm.models.load_state_dict(str(file), weights_only=True)
    except (SafetensorError, UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(
            f"Encoder weights {file} cannot be read: {str(error).strip().partition(chr(10))[0]} Expected safetensors, "
            "or a .pth file of tensors alone; what runs code when it is read is refused."
        ) from error


def _explain_failure(name: str, output_stride: int, error: Exception) -> str:
    base = name.partition(".")[0]
    if not timm.is_model(base) and ":" not in name:
        close = timm.list_models(f"*{base.split('_')[0]}*")[:8]
        return f"timm has no encoder named {name!r}." + (f" Close names: {', '.join(close)}." if close else "")
    reason = str(error) or type(error).__name__
    if output_stride != 32:
        return (
            f"timm encoder {name!r} cannot run at output_stride={output_stride}: it cannot replace its strides by "
            f"dilation ({reason}). Use output_stride=32 with it, or one that can dilate: {DILATABLE_EXAMPLES}."
        )
    return f"timm encoder {name!r} offers no feature maps ({reason}). Use for example {DILATABLE_EXAMPLES}."
