"""KASegModel: a timm encoder, a segmentation head and a 1x1 classifier."""

import copy
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import timm
import torch
from torch import nn
from torch.nn import functional as F
from transformers import MobileNetV2Config, MobileNetV2ForSemanticSegmentation, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.utils import logging

from .checkpoints import resolve
from .configuration_kaseg import KASegConfig
from .conversion import config_from_mobilenet_v2, config_to_mobilenet_v2, convert_mobilenet_v2, convert_to_mobilenet_v2
from .encoders import Encoder, EncoderArgumentsError
from .fusion import fold_batch_norm
from .heads import Head, StrideMerge, build_head
from .loading_errors import CheckpointError, check_cached_weights, explained_loading, missing_weights
from .masks import resize_logits

logger = logging.get_logger(__name__)

# Fields of the config on which it depends which weights there are, beside the classes.
_ARCHITECTURE = (
    *("backbone", "backbone_kwargs", "output_stride", "num_channels"),
    *("head", "head_channels", "skip_channels", "atrous_rates", "separable_head"),
)


class KASegModel(PreTrainedModel):
    """A semantic-segmentation network: encoder -> head -> dropout -> 1x1 classifier.

    `logits` are (B, num_labels, h, w) at the head's own stride, as in transformers:
    [`KASegImageProcessor.post_process_semantic_segmentation`] resizes them. The map before dropout, which knowledge
    adaptation taps, is the last of `hidden_states`.

    Args:
        config ([`KASegConfig`]): The architecture.
        pretrained_backbone (`bool`, defaults to `False`): Start the encoder from timm's ImageNet weights. Only ever
            done when a new model is built; `from_pretrained` never fetches them.
        backbone_weights (`str` or `Path`, *optional*): A local file of encoder weights in timm's layout instead of a
            download.

    Example:

    ```python
    >>> import torch
    >>> from kaseg import KASegConfig, KASegModel

    >>> model = KASegModel(KASegConfig(output_stride=32, num_labels=11)).eval()
    >>> model(torch.zeros(1, 3, 257, 319)).logits.shape
    torch.Size([1, 11, 9, 10])
    ```
    """

    config_class = KASegConfig
    config: KASegConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    accepts_loss_kwargs = False
    _no_split_modules: list[str] = []
    _fused = False

    def __init__(
        self, config: KASegConfig, pretrained_backbone: bool = False, backbone_weights: str | Path | None = None
    ) -> None:
        config.check()  # once more: its fields may have been set since
        super().__init__(config)
        self.encoder = Encoder(config.backbone, config.output_stride, config.num_channels, config.encoder_kwargs)
        self.merge: StrideMerge | None
        self.head: Head
        self.merge, self.head = build_head(config, self.encoder.channels, self.encoder.reductions)
        self.dropout = nn.Dropout(config.classifier_dropout_prob)
        self.classifier = nn.Conv2d(config.head_channels, config.num_labels, 1)
        self.post_init()
        if pretrained_backbone or backbone_weights is not None:
            self.encoder.load_pretrained(backbone_weights)
        if config.freeze_batch_norm:
            self.train(self.training)

    @property
    def feature_stride(self) -> int:
        """Stride of the logits and of the map before the classifier, in image pixels."""
        return self.head.stride

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # transformers calls this for whatever a checkpoint lacks; its `init` functions leave loaded tensors alone.
        if isinstance(module, nn.Conv2d | nn.Linear):
            if module is self.classifier:
                init.normal_(module.weight, std=0.01)
            else:
                init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif hasattr(module, "init_non_persistent_buffers"):
            # timm's window indices and blur kernels, which no checkpoint holds.
            module.init_non_persistent_buffers()  # type: ignore[operator]
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
            if module.weight is not None:
                init.ones_(module.weight)
                init.zeros_(module.bias)
            if getattr(module, "running_mean", None) is not None:
                init.zeros_(module.running_mean)
                init.ones_(module.running_var)
                init.zeros_(module.num_batches_tracked)

    def post_init(self) -> None:
        # timm has initialized the encoder in its own way, unless the tensors still wait for a checkpoint (meta).
        for tensor in [*self.encoder.parameters(), *self.encoder.buffers()]:
            if tensor.device.type != "meta":
                tensor._is_hf_initialized = True  # type: ignore[attr-defined]
        super().post_init()

    def fuse(self) -> Self:
        """Fold every BatchNorm into the convolution before it, in place, for deployment. Returns the model itself.

        Encoders with branches for training alone (RepVGG, MobileOne, FastViT) are first reduced to one branch by timm.
        Outputs stay the same up to rounding. A fused model can be neither trained nor saved: save it before.

        Raises:
            ValueError: the model is in training mode.
        """
        if self.training:
            raise ValueError("fuse() folds fixed BatchNorm statistics, but the model is in training mode: call eval().")
        if not self._fused:
            self.encoder.body = timm.utils.reparameterize_model(self.encoder.body).eval()
            side = 2 * max(*self.encoder.reductions, self.encoder.size_multiple)
            fold_batch_norm(self, (1, self.config.num_channels, side, side), output_hidden_states=True)
            self._fused = True
        return self

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """As in `PreTrainedModel`; a ValueError if the model was fused."""
        if self._fused:
            raise ValueError(
                "A fused model has other weights than its config describes and cannot be saved: save it before fuse(). "
                "To deploy it, export it."
            )
        return super().save_pretrained(save_directory, *args, **kwargs)

    def train(self, mode: bool = True) -> Self:
        if mode and self._fused:
            raise ValueError("A fused model has no BatchNorm left to train: load the checkpoint again to train it.")
        super().train(mode)
        if self.config.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval().requires_grad_(False)
        return self

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Self:
        """As in `PreTrainedModel`, from a Hub id, a local folder or a shipped checkpoint such as
        `"kaseg/mobilenetv2-os16-camvid-ka"`.

        Weights are read from safetensors alone; `use_safetensors=False` reads a pickle, which can run code.
        `id2label=...` asks for other classes: the classifier's rows are matched by class name, and rows of new names
        start anew, which is logged. Another number of classes also needs `ignore_mismatched_sizes=True`, and so do
        fields of the architecture (`head="fpn"`) of which the checkpoint has no weights.

        Raises:
            CheckpointError (an `OSError`): no such checkpoint, no right to read it, no network, or damaged, missing or
                no safetensors weights.
            ValueError: another kind of model, or weights for another number of classes or another architecture.
        """
        name = resolve(pretrained_model_name_or_path)
        revision, cache_dir = kwargs.get("revision"), kwargs.get("cache_dir")
        kwargs.setdefault("use_safetensors", True)
        wants_info = kwargs.pop("output_loading_info", False)
        with explained_loading(name, revision, cache_dir):
            # The checkpoint is loaded with its own classes; others are asked for in what follows.
            labels = _take_labels(name, kwargs)
            try:
                model, info = super().from_pretrained(name, *model_args, output_loading_info=True, **kwargs)
            except EncoderArgumentsError as error:
                asked = _asked_for(name, kwargs, (*_ARCHITECTURE, "tf_padding", "batch_norm_eps"))
                raise type(error)(f"{name} cannot be loaded as it was asked for{asked}: {error}") from error
            except RuntimeError as error:
                if "ignore_mismatched_sizes" not in str(error):
                    raise
                raise ValueError(
                    f"The weights of {name} do not fit the architecture that was asked for"
                    f"{_asked_for(name, kwargs)}; the report above lists them."
                ) from error
            check_cached_weights(name, revision, cache_dir)
        starts_anew = bool(kwargs.get("ignore_mismatched_sizes"))
        if (missing := missing_weights(model, info)) and not starts_anew:
            asked = _asked_for(name, kwargs)
            what_to_do = "Leave these fields out" if asked else "Name a checkpoint of the whole model"
            raise (ValueError if asked else CheckpointError)(
                f"{name} lacks {len(missing)} of the trained weights of a {cls.__name__} ({missing[0]}), which would "
                f"be random numbers{asked}. {what_to_do}, or, to train them anew, pass ignore_mismatched_sizes=True."
            )
        if labels:
            model._change_classes(labels, name, starts_anew)
        loaded: Any = (model, info) if wants_info else model
        return loaded

    @torch.no_grad()
    def _change_classes(self, labels: dict[str, Any], name: str, other_number: bool) -> None:
        """Give the model the classes that `labels` (keyword arguments of the config) describe."""
        wanted = KASegConfig.from_dict(self.config.to_dict(), **labels)
        if wanted.num_labels != self.config.num_labels and not other_number:
            raise ValueError(
                f"{name} has {self.config.num_labels} classes, {wanted.num_labels} were asked for. To replace its "
                f"classifier by a new one: from_pretrained({name!r}, num_labels={wanted.num_labels}, "
                "ignore_mismatched_sizes=True), then train it."
            )
        rows = _matched_rows(_class_names(self.config), _class_names(wanted), name)
        if rows != list(range(self.config.num_labels)):
            old = self.classifier
            self.classifier = nn.Conv2d(old.in_channels, wanted.num_labels, 1).to(old.weight)
            nn.init.normal_(self.classifier.weight, std=0.01)
            assert self.classifier.bias is not None and old.bias is not None
            nn.init.zeros_(self.classifier.bias)
            for index, row in enumerate(rows):
                if row is not None:
                    self.classifier.weight[index], self.classifier.bias[index] = old.weight[row], old.bias[row]
        for field in ("id2label", "label2id", "palette"):
            setattr(self.config, field, getattr(wanted, field))

    @classmethod
    def from_transformers(cls, model: PreTrainedModel) -> Self:
        """The same network as a `transformers` `MobileNetV2ForSemanticSegmentation`, with its weights, in eval mode.

        Its images are normalized with its own processor's mean and standard deviation (0.5 and 0.5 for Google's
        checkpoints), so give these to [`KASegImageProcessor`].

        Raises:
            ValueError: another kind of model, or a variant that no timm encoder has.
        """
        if model.config.model_type != "mobilenet_v2" or not hasattr(model, "segmentation_head"):
            raise ValueError(
                f"from_transformers imports a MobileNetV2ForSemanticSegmentation, got {type(model).__name__}. Other "
                "models can be teachers as they are: pass them as teacher= to KnowledgeAdaptationTrainer."
            )
        converted = cls(KASegConfig(**config_from_mobilenet_v2(model.config)))
        converted.config.name_or_path = model.config.name_or_path  # where its image processor lies
        converted.load_state_dict(convert_mobilenet_v2(model.state_dict()))
        return converted.eval()

    def to_transformers(self) -> MobileNetV2ForSemanticSegmentation:
        """The same network as a `transformers` `MobileNetV2ForSemanticSegmentation`, with its weights, in eval mode.

        Students on MobileNetV2 alone have an equal there. Its logits are this model's; with `pad_to_stride`, which
        transformers has not, at sizes that are multiples of the stride. `kaseg export --format transformers` writes it
        with an image processor that sees to that. The 1280-channel layer that transformers' model carries and does not
        use for segmentation is zero. [`~KASegModel.from_transformers`] gives the same model again.

        Raises:
            ValueError: transformers has no such network, or the model was fused.
        """
        if self._fused:
            raise ValueError("A fused model has no BatchNorm left, which transformers' has: convert it before fuse().")
        converted = MobileNetV2ForSemanticSegmentation(MobileNetV2Config(**config_to_mobilenet_v2(self.config)))
        own = converted.state_dict()
        torch.nn.init.zeros_(own["mobilenet_v2.conv_1x1.convolution.weight"])
        converted.load_state_dict({**own, **convert_to_mobilenet_v2(self.state_dict(), own)})
        return converted.eval()

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> SemanticSegmenterOutput | tuple[Any, ...]:
        """Segment a batch of images.

        Args:
            pixel_values (`torch.FloatTensor` of shape (B, num_channels, H, W)): Normalized images of any size.
            labels (`torch.LongTensor` of shape (B, H', W'), *optional*): Train ids, 255 (void) ignored; the logits are
                resized to them bilinearly for the cross-entropy.
            output_hidden_states (`bool`, *optional*): Also return the encoder's maps, then the map before dropout and
                classifier.
            return_dict (`bool`, *optional*): `False` returns a plain tuple.

        Raises:
            ValueError: the image or the labels have the wrong shape.
        """
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.config.num_channels:
            raise ValueError(
                f"pixel_values must have shape (batch, {self.config.num_channels}, height, width), "
                f"got {tuple(pixel_values.shape)}."
            )
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if return_dict is None:
            return_dict = self.config.return_dict
        size = pixel_values.shape[-2:]
        if self.training and pixel_values.device.type == "cpu":
            # The layout that CPUs train fastest in (tests/benchmarks/depthwise_convolutions.py).
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        if self.config.pad_to_stride:
            pixel_values = self._padded(pixel_values)
        features = self.encoder(pixel_values)
        maps = features if self.merge is None else self.merge(features, pixel_values.shape[-2:])
        feature_map = self.head(maps)
        logits = self.classifier(self.dropout(feature_map))
        hidden_states = [*features, feature_map] if output_hidden_states else []
        # A traced graph has to do it for whichever size comes.
        if self.config.pad_to_stride and (torch.compiler.is_exporting() or pixel_values.shape[-2:] != size):
            logits = align_to_image(logits, size, self.feature_stride)
            strides = (*self.encoder.reductions, self.feature_stride)
            # Without hidden states there are none to take strides for.
            hidden_states = [align_to_image(state, size, s) for state, s in zip(hidden_states, strides, strict=False)]
        loss = None if labels is None else self._cross_entropy(logits, labels)
        if not return_dict:
            values = (loss, logits, tuple(hidden_states) or None)
            return tuple(value for value in values if value is not None)
        return SemanticSegmenterOutput(loss=loss, logits=logits, hidden_states=tuple(hidden_states) or None)

    def _padded(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The images with zeros at the bottom and at the right up to multiples of the coarsest stride."""
        multiple = max(*self.encoder.reductions, self.config.output_stride)
        # Not -side % multiple, for which torch.compile has no code where sides are free.
        down, right = (multiple - 1 - (side - 1) % multiple for side in pixel_values.shape[-2:])
        return F.pad(pixel_values, (0, right, 0, down))

    def _cross_entropy(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if labels.ndim != 3:
            raise ValueError(f"labels must have shape (batch, height, width), got {tuple(labels.shape)}.")
        # kaseg.losses has this and more for training, but this file must run without the package.
        ignore_index = self.config.semantic_loss_ignore_index
        logits = resize_logits(logits, labels.shape[-2:])
        total = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="sum")
        # An image without a single labelled pixel gives 0, not nan.
        return total / labels.ne(ignore_index).sum().clamp(min=1)


def align_to_image(feature_map: torch.Tensor, size: Sequence[int], stride: int) -> torch.Tensor:
    """Crop the map of a padded image to the image, (B, C, ceil(H / stride), ceil(W / stride)), so that upsampling is
    aligned.

    `F.interpolate(align_corners=False)` to (H, W) then gives what the padded map gives at the padded size: values move
    by no more than one position, linearly between neighbors. Our choice.
    """
    for axis, length in ((-2, size[0]), (-1, size[1])):
        cells = (length + stride - 1) // stride
        feature_map = feature_map.transpose(axis, -1)[..., :cells]
        # How far the last position, and in proportion each before it, reaches beyond the image.
        beyond = 1 - length / (cells * stride)
        positions = torch.arange(cells, device=feature_map.device, dtype=torch.float32)
        share = (positions + 0.5) * beyond * (positions > 0)  # nothing is before the first
        before = F.pad(feature_map, (1, 0))[..., :cells]
        # In float32 at least.
        feature_map = (feature_map + (before - feature_map) * share).to(feature_map.dtype).transpose(axis, -1)
    return feature_map


def _asked_for(name: str, kwargs: dict[str, Any], fields: Iterable[str] = _ARCHITECTURE) -> str:
    """The fields of the architecture that `kwargs` of `from_pretrained` set otherwise than the checkpoint, in words."""
    stored, given = _stored_config(name, kwargs), kwargs.get("config")
    wanted = {key: getattr(given, key) for key in fields if isinstance(given, KASegConfig)} | kwargs
    own = {key: getattr(stored, key) for key in fields}
    changed = [key for key in own if wanted.get(key, own[key]) != own[key]]
    return "".join(f" ({key}={wanted[key]!r}; its own is {own[key]!r})" for key in changed)


def _take_labels(name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Take what asks for classes out of the keyword arguments of `from_pretrained`."""
    labels: dict[str, Any] = {
        key: kwargs.pop(key) for key in ("id2label", "label2id", "num_labels", "palette") if key in kwargs
    }
    config = kwargs.get("config")
    if isinstance(config, KASegConfig):  # from the Auto classes, or built by hand
        stored = _stored_config(name, kwargs)
        labels = {"id2label": config.id2label, "palette": config.palette, **labels}
        kwargs["config"] = config = copy.deepcopy(config)
        config.id2label, config.label2id, config.palette = stored.id2label, stored.label2id, stored.palette
    return labels


def _stored_config(name: str, kwargs: dict[str, Any]) -> KASegConfig:
    """A checkpoint's own config; `kwargs` are those of `from_pretrained`."""
    hub = ("revision", "cache_dir", "token", "local_files_only", "subfolder", "force_download")
    return KASegConfig.from_pretrained(name, **{key: kwargs[key] for key in hub if key in kwargs})


def _class_names(config: KASegConfig) -> list[str]:
    return [config.id2label[index] for index in range(config.num_labels)]


def _matched_rows(old: list[str], new: list[str], name: str) -> list[int | None]:
    """Which row of the old classifier each new class takes, `None` for a new one; says so in the log."""
    if old == new:
        return list(range(len(old)))
    if len(old) == len(new) and all(re.fullmatch(r"LABEL_\d+", label) for label in old):
        logger.warning("The classes of %s have no names: the classifier's rows are kept in their order.", name)
        return list(range(len(old)))
    index_of = {label.strip().casefold(): index for index, label in enumerate(old) if not label.startswith("LABEL_")}
    rows = [index_of.get(label.strip().casefold()) for label in new]
    kept = [label for label, row in zip(new, rows, strict=True) if row is not None]
    fresh = [label for label, row in zip(new, rows, strict=True) if row is None]
    logger.warning(
        "Other classes than those of %s were asked for. Rows of its classifier are kept by name for %d: %s; new, and "
        "to be trained, are %d: %s. (To rename classes, load the model as it is and change model.config.id2label.)",
        name,
        len(kept),
        ", ".join(kept) or "none",
        len(fresh),
        ", ".join(fresh) or "none",
    )
    return rows
