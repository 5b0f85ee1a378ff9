"""Encoders: any timm encoder that offers feature maps, at a chosen output stride."""

import math
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional as F

EXAMPLES = "mobilenetv2_100, mobilenetv3_large_100, efficientnet_b0, resnet50, convnext_tiny"
# How timm's transformers that are made for one image size are told to take every size: ViTs resample their position
# embedding, Swins pad their windows.
_ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False})

# Multiple and minimum of the sides of an image that an encoder takes, and which of its maps have their channels last.
Layout = tuple[int, int, list[bool]]
# Finding a layout takes most of the time of building a model, and depends on nothing but these: name and arguments.
_LAYOUTS: dict[str, Layout | None] = {}

# Which field of a KASegConfig a keyword argument for timm is made of, where its name differs.
_FIELDS = {"pad_type": "tf_padding", "bn_eps": "batch_norm_eps"}


class EncoderArgumentsError(ValueError):
    """An encoder does not take keyword arguments that others take."""


def on_meta(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, in shape alone."""
    return {name: t.to("meta") for name, t in [*model.named_parameters(), *model.named_buffers()]}


@torch.no_grad()
def pass_of_shapes(
    model: nn.Module, image_shape: tuple[int, ...], tensors: dict[str, torch.Tensor] | None = None, **kwargs: Any
) -> Any:
    """What a model in eval mode gives for an image, in shapes alone, whatever device it is on; `tensors` are those of
    [`on_meta`], if the caller must know them."""
    tensors = on_meta(model) if tensors is None else tensors
    dtype = next((t.dtype for t in tensors.values() if t.is_floating_point()), None)
    image = torch.zeros(image_shape, dtype=dtype, device="meta")
    was_training = model.training
    model.eval()
    try:
        return torch.func.functional_call(model, tensors, (image,), kwargs)
    finally:
        model.train(was_training)


class Encoder(nn.Module):
    """A timm feature extractor whose deepest map lies at `output_stride`, or as near to it as timm can bring it.

    Strides that are too large are replaced by dilation inside timm, so the weights of one encoder fit every stride. One
    that timm cannot dilate so far keeps the strides it has (`reductions`), and [`~kaseg.heads.StrideMerge`] brings its
    maps to `output_stride`.

    Args:
        name (`str`): A timm model name, e.g. `"mobilenetv2_100"` or `"resnet50"`.
        output_stride (`int`): 4, 8, 16 or 32.
        in_channels (`int`): Channels of the image.
        model_kwargs (`dict`, *optional*): Further keyword arguments of `timm.create_model`, e.g.
            `{"pad_type": "same", "bn_eps": 1e-3}` for TensorFlow's padding and BatchNorm epsilon.

    Attributes:
        channels, reductions (`list[int]`): Channels and stride of each map, from fine to coarse.
        size_multiple, smallest_side (`int`): What images are padded to, because the encoder takes no others.

    Raises:
        EncoderArgumentsError (a `ValueError`): `model_kwargs` that this encoder does not take.
        ValueError: unknown encoder, no feature maps, a deepest map that is finer than `output_stride`, or no maps for
            images of any size.
    """

    def __init__(
        self, name: str, output_stride: int = 16, in_channels: int = 3, model_kwargs: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.name = name
        self._model_kwargs = dict(model_kwargs or {})
        self.create_kwargs: dict[str, Any] = {"features_only": True, "in_chans": in_channels, **self._model_kwargs}
        self._create(output_stride)
        layout = self._layout(in_channels)
        own_kwargs = self.create_kwargs
        for any_size in _ANY_SIZE:
            if layout is None and self._build({**own_kwargs, **any_size}) is None:
                layout = self._layout(in_channels)
        if layout is None:
            raise ValueError(
                f"timm encoder {name!r} does not give maps of ceil(size / stride) at strides {self.reductions} for "
                "images of any size: it is built for one size, or cuts off the image's border. Choose another, for "
                f"example {EXAMPLES}."
            )
        self.size_multiple, self.smallest_side, channels_last = layout
        self.channels_last = list(channels_last)
        if self.reductions[-1] < output_stride:
            finer = max((stride for stride in (4, 8, 16, 32) if stride <= self.reductions[-1]), default=None)
            remedy = f"Set output_stride={finer}." if finer else f"Choose another, for example {EXAMPLES}."
            raise ValueError(
                f"timm encoder {name!r} ends at stride {self.reductions[-1]}, finer than the requested "
                f"output_stride={output_stride}. {remedy}"
            )

    def _create(self, output_stride: int) -> None:
        """Build the encoder, dilated as far toward `output_stride` as timm can."""
        plain = self.create_kwargs
        for stride in (s for s in (4, 8, 16) if s >= output_stride):
            if self._build({**plain, "output_stride": stride}) is None and self.reductions[-1] == stride:
                return
        if (error := self._build(plain)) is not None:
            check_encoder_name(self.name)
            self._check_arguments(error)
            raise ValueError(
                f"timm encoder {self.name!r} offers no feature maps ({str(error) or type(error).__name__}). Use for "
                f"example {EXAMPLES}."
            ) from error

    def _check_arguments(self, error: Exception) -> None:
        """Names the keyword arguments without which the encoder, which `error` is about, can be built."""
        plain = {key: value for key, value in self.create_kwargs.items() if key not in self._model_kwargs}
        if not self._model_kwargs or self._build(plain) is not None:
            return
        alone = {key: self._build({**plain, key: value}) for key, value in self._model_kwargs.items()}
        refused = [key for key, reason in alone.items() if reason is not None] or list(alone)
        names = ", ".join(f"{key}={self._model_kwargs[key]!r}" for key in refused)
        fields = sorted({_FIELDS.get(key, f"backbone_kwargs[{key!r}]") for key in refused})
        raise EncoderArgumentsError(
            f"timm encoder {self.name!r} does not take {names} ({str(error) or type(error).__name__}). Leave out of "
            f"its KASegConfig: {', '.join(fields)}; or choose an encoder that takes them."
        ) from error

    def _build(self, kwargs: dict[str, Any]) -> Exception | None:
        """Build the encoder with these keyword arguments; what timm says if it does not take them."""
        try:
            self.body = timm.create_model(self.name, pretrained=False, **kwargs)
            channels, reductions = self.body.feature_info.channels(), self.body.feature_info.reduction()
        except (AssertionError, TypeError, RuntimeError, AttributeError) as error:
            return error
        self.create_kwargs = kwargs
        self.channels: list[int] = list(channels)
        self.reductions: list[int] = list(reductions)
        return None

    def _layout(self, in_channels: int) -> Layout | None:
        """[`_find_layout`], once per name and arguments in this process."""
        key = repr((self.name, sorted(self.create_kwargs.items())))
        if key not in _LAYOUTS:
            _LAYOUTS[key] = self._find_layout(in_channels)
        return _LAYOUTS[key]

    def _find_layout(self, in_channels: int) -> Layout | None:
        """The encoder's [`Layout`], found by shape-only passes: at a size that no stride divides; at multiples of the
        stride, for encoders that cut the image into patches; at multiples of the size the encoder was made for, for
        windows that must fit. `None` if none of these is taken."""
        layout = self._channels_last_at(in_channels, 33, 65)
        if layout is not None:
            return 1, 1 if self._channels_last_at(in_channels, 1, 1) else 33, layout
        for multiple in (math.lcm(*self.reductions), self.body.pretrained_cfg["input_size"][-1]):
            layout = self._channels_last_at(in_channels, multiple, 2 * multiple)
            if layout is not None:
                return multiple, multiple, layout
        return None

    def _channels_last_at(self, in_channels: int, height: int, width: int) -> list[bool] | None:
        """Whether each map of an image of this size is (B, h, w, c); `None` if maps fail or have other sizes."""
        try:
            features = pass_of_shapes(self.body, (1, in_channels, height, width))
        except (RuntimeError, AssertionError, ValueError, IndexError):
            return None
        channels_last = []
        for feature, c, r in zip(features, self.channels, self.reductions, strict=True):
            size = (-(-height // r), -(-width // r))
            if tuple(feature.shape[1:]) not in ((c, *size), (*size, c)):
                return None
            channels_last.append(tuple(feature.shape[1:]) != (c, *size))
        return channels_last

    def forward(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """(B, C, H, W) image -> feature maps from fine to coarse, each (B, c_i, ceil(H / r_i), ceil(W / r_i)).

        For encoders that cannot take every size the image is padded with zeros at the bottom and the right, and the
        maps are cropped again."""
        height, width = pixel_values.shape[-2:]
        pads = self.size_multiple > 1 or self.smallest_side > 1
        if pads:
            # Encoders that cut the image into patches (ConvNeXt) would drop the last rows and columns, or fail.
            pixel_values = F.pad(pixel_values, (0, self._padding(width), 0, self._padding(height)))
        features = [
            f.permute(0, 3, 1, 2) if channels_last else f
            for f, channels_last in zip(self.body(pixel_values), self.channels_last, strict=True)
        ]
        if pads:
            features = [
                f[..., : -(-height // r), : -(-width // r)] for f, r in zip(features, self.reductions, strict=True)
            ]
        return features

    def _padding(self, side: int) -> int:
        if self.size_multiple > 1:
            return -side % self.size_multiple
        return torch.sym_max(self.smallest_side - side, 0)  # type: ignore[return-value]

    def load_pretrained(self, file: str | Path | None = None) -> None:
        """Copy timm's pretrained weights into the encoder: of a local `file` in timm's own layout, or those that belong
        to the encoder's name, which timm downloads.

        Raises:
            OSError: there is no such file, timm has no weights for this encoder, they could not be fetched, or do not
                fit.
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
            raise OSError(
                f"Could not load pretrained weights of encoder {self.name!r} from {where}: {str(error).rstrip('.')}. "
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


def check_encoder_name(name: str) -> None:
    """Raises a `ValueError` that lists close names if timm has no such encoder; Hub names (`hf-hub:...`) pass."""
    base = name.partition(".")[0]
    if not timm.is_model(base) and ":" not in name:
        close = timm.list_models(f"*{base.split('_')[0]}*")[:8]
        raise ValueError(
            f"timm has no encoder named {name!r}." + (f" Close names: {', '.join(close)}." if close else "")
        )
