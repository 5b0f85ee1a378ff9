"""Configuration of KASegModel."""

import inspect
from collections.abc import Mapping
from typing import Any, Self

from transformers import PreTrainedConfig

from .checkpoints import resolve
from .close_names import did_you_mean
from .loading_errors import explained_loading

VOID = 255
HEADS = ("student", "deeplabv3plus", "lraspp", "mlp", "fpn")
OUTPUT_STRIDES = (4, 8, 16, 32)
# Fields of any config that tell where a network came from and who wrote the file, not what it computes.
ORIGIN_FIELDS = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}


class KASegConfig(PreTrainedConfig):
    r"""What is needed to build a [`KASegModel`] again; it travels in every checkpoint as `config.json`.

    The defaults are the student of He et al. 2019 at its headline stride.

    Args:
        backbone (`str`, defaults to `"mobilenetv2_100"`): timm encoder that offers feature maps.
        output_stride (`int`, defaults to 16): Stride of the deepest map that the head reads: 4, 8, 16 or 32. The
            encoder is dilated to it; where timm cannot do that, its coarser maps are merged into one at this stride
            ([`~kaseg.heads.StrideMerge`]), except for `"mlp"` and `"fpn"`, which merge all maps anyway.
        num_channels (`int`, defaults to 3): Channels of the image.
        head (`str`, defaults to `"student"`): `"student"` (the DeepLab MobileNetV2 head, no ASPP and no decoder; logits
            at `output_stride`), `"deeplabv3plus"` (for teachers; stride 4), `"lraspp"` (MobileNetV3's; stride 8),
            `"mlp"` (SegFormer's; stride 4) or `"fpn"` (Panoptic FPN's; stride 4).
        head_channels (`int`, defaults to 256): Channels of the map that the classifier reads.
        skip_channels (`int`, defaults to 48): Channels of the decoder's stride-4 skip (`"deeplabv3plus"` only).
        atrous_rates (`list[int]`, *optional*): ASPP rates; by default 6, 12, 18 at output stride 16, doubled at 8
            (Chen et al. 2018).
        separable_head (`bool`, defaults to `True`): Depthwise separable 3x3 convolutions in `"deeplabv3plus"`
            and `"fpn"`.
        classifier_dropout_prob (`float`, defaults to 0.1): Dropout before the classifier (our choice).
        tf_padding (`bool`, defaults to `False`): Pad the encoder's convolutions the TensorFlow way ("SAME").
        batch_norm_eps (`float`, *optional*): Epsilon of the encoder's BatchNorm; timm's own by default.
        freeze_batch_norm (`bool`, defaults to `False`): Keep BatchNorm statistics and weights fixed while training.
        pad_to_stride (`bool`, defaults to `False`): Pad images at the bottom and at the right, with 0, to multiples of
            the coarsest stride before the encoder, and crop the logits to the image, so that upsampling is aligned.
            Without it the logits of an image of another size are stretched over it, by up to a stride; with
            `tf_padding` they are also shifted. Shapes are the same either way, and images of such multiples are not
            touched (our choice).
        backbone_kwargs (`dict`, *optional*): Further keyword arguments for `timm.create_model`.
        palette (`list[list[int]]`, *optional*): One RGB color per class.
        semantic_loss_ignore_index (`int`, defaults to 255): Void label, never a class. It cannot be another one: data,
            losses and scores all take 255 for void.
        kwargs: As in `PreTrainedConfig`. Classes are given as `num_labels` or as `id2label`, whose ids must be
            0..C-1; `label2id` follows from it.

    Raises:
        ValueError: an unknown head, a stride other than 4/8/16/32, a palette that does not fit the classes, another
            void label, classes of which no model can be made (see [`require_classes`]), or a field that is spelled
            almost as one of these.

    Example:

    ```python
    >>> from kaseg import KASegConfig, KASegModel

    >>> model = KASegModel(KASegConfig(output_stride=16, num_labels=21))
    ```
    """

    model_type = "kaseg"
    keys_to_ignore_at_inference = ["hidden_states"]

    def __init__(
        self,
        backbone: str = "mobilenetv2_100",
        output_stride: int = 16,
        num_channels: int = 3,
        head: str = "student",
        head_channels: int = 256,
        skip_channels: int = 48,
        atrous_rates: list[int] | None = None,
        separable_head: bool = True,
        classifier_dropout_prob: float = 0.1,
        tf_padding: bool = False,
        batch_norm_eps: float | None = None,
        freeze_batch_norm: bool = False,
        pad_to_stride: bool = False,
        backbone_kwargs: dict[str, Any] | None = None,
        palette: list[list[int]] | None = None,
        semantic_loss_ignore_index: int = 255,
        **kwargs: Any,
    ) -> None:
        self.backbone = backbone
        self.output_stride = output_stride
        self.num_channels = num_channels
        self.head = head
        self.head_channels = head_channels
        self.skip_channels = skip_channels
        self.atrous_rates = atrous_rates
        self.separable_head = separable_head
        self.classifier_dropout_prob = classifier_dropout_prob
        self.tf_padding = tf_padding
        self.batch_norm_eps = batch_norm_eps
        self.freeze_batch_norm = freeze_batch_norm
        self.pad_to_stride = pad_to_stride
        self.backbone_kwargs = backbone_kwargs
        self.palette = palette
        self.semantic_loss_ignore_index = semantic_loss_ignore_index
        self._name_classes(kwargs)
        super().__init__(**kwargs)
        self.check()
        self._check_names(kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Self:
        """As in `PreTrainedConfig`; knows the shipped checkpoints by name.

        Raises:
            CheckpointError (an `OSError`): no such checkpoint, no right to read it, or no network.
            ValueError: another kind of model.
        """
        name = resolve(pretrained_model_name_or_path)
        with explained_loading(name, kwargs.get("revision"), kwargs.get("cache_dir")):
            return super().from_pretrained(name, **kwargs)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in `PreTrainedConfig`, for checkpoints of this model alone."""
        config, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        model_type = config.get("model_type")
        if model_type == cls.model_type:
            return config, unused
        if model_type is None:
            raise ValueError(
                f"{pretrained_model_name_or_path} has no config.json with a model_type: it is no checkpoint of "
                "transformers. KASegModel loads what KASegModel.save_pretrained or a trainer wrote."
            )
        raise ValueError(
            f"{pretrained_model_name_or_path} holds a model of type {model_type!r}, not {cls.model_type!r}. Load it "
            "with transformers' AutoModelForSemanticSegmentation; to learn from it, pass its name as teacher= to "
            "KnowledgeAdaptationTrainer; a MobileNetV2ForSemanticSegmentation becomes a KASegModel by "
            "KASegModel.from_transformers(model)."
        )

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in `PreTrainedConfig`; another number of classes discards the names and colors of the old ones."""
        cls._name_classes(kwargs)  # whose ids are strings where they come from JSON
        id2label = kwargs.get("id2label")
        num_labels = kwargs.get("num_labels", None if id2label is None else len(id2label))
        # transformers does not write the names of two classes that have none of their own.
        if num_labels is not None and num_labels != len(config_dict.get("id2label") or (0, 1)):
            config_dict = {k: v for k, v in config_dict.items() if k not in ("id2label", "label2id", "palette")}
        loaded = super().from_dict(config_dict, **kwargs)
        # `kwargs` are set after the constructor has looked.
        (loaded[0] if isinstance(loaded, tuple) else loaded).check()
        return loaded

    @staticmethod
    def _name_classes(kwargs: dict[str, Any]) -> None:
        """Bring `id2label` and `label2id` to one form, in place, and refuse another number in `num_labels`."""
        id2label, num_labels = kwargs.get("id2label"), kwargs.get("num_labels")
        if id2label is None:
            return
        if not isinstance(id2label, Mapping):
            raise ValueError(f"id2label must be a dictionary, such as {{0: 'sky', 1: 'road'}}, got {id2label!r}.")
        if num_labels is not None and num_labels != len(id2label):
            raise ValueError(
                f"num_labels is {num_labels}, but id2label names {len(id2label)} classes: leave num_labels out, or "
                "correct one of the two."
            )
        kwargs["id2label"] = {index: id2label[key] for index, key in sorted((int(key), key) for key in id2label)}
        if kwargs.get("label2id") is None:
            kwargs["label2id"] = {name: index for index, name in kwargs["id2label"].items()}

    def check(self) -> None:
        """Raise a `ValueError` that names the field of which no model can be built."""
        if self.output_stride not in OUTPUT_STRIDES:
            raise ValueError(f"output_stride must be one of {OUTPUT_STRIDES}, got {self.output_stride!r}.")
        if self.head not in HEADS:
            raise ValueError(f"head must be one of {HEADS}, got {self.head!r}.")
        if self.semantic_loss_ignore_index != VOID:
            raise ValueError(
                f"semantic_loss_ignore_index is {self.semantic_loss_ignore_index}, but void is {VOID} "
                f"everywhere in kaseg: leave it out, and map void to {VOID} in the data's label map (null in "
                f"classes.json, or LabelSpace(label_map={{raw value: {VOID}}}))."
            )
        require_classes(self, type(self).__name__)
        if self.palette is not None and len(self.palette) != self.num_labels:
            raise ValueError(
                f"palette has {len(self.palette)} colors but the model has num_labels={self.num_labels} classes."
            )

    @classmethod
    def _check_names(cls, others: dict[str, Any]) -> None:
        """Fields that are not its own are kept, as those of newer versions and of other tools are, but not if they only
        look like its own: a misspelled one would change nothing."""
        own = set(inspect.signature(cls.__init__).parameters) - {"self", "kwargs"}
        for name in others:
            if close := did_you_mean(name, own, cutoff=0.85):
                raise ValueError(f"{cls.__name__} has no field {name!r}.{close}")

    @property
    def encoder_kwargs(self) -> dict[str, Any]:
        """Keyword arguments for timm that padding, epsilon and `backbone_kwargs` amount to."""
        kwargs = dict(self.backbone_kwargs or {})
        if self.tf_padding:
            kwargs["pad_type"] = "same"
        if self.batch_norm_eps is not None:
            kwargs["bn_eps"] = self.batch_norm_eps
        return kwargs

    @property
    def resolved_atrous_rates(self) -> list[int]:
        """ASPP rates in use: those given, or 6, 12, 18 scaled by 16 / `output_stride` (never below 1)."""
        if self.atrous_rates is not None:
            return list(self.atrous_rates)
        return [max(1, rate * 16 // self.output_stride) for rate in (6, 12, 18)]


def require_classes(config: Any, where: str) -> None:
    """Raise a `ValueError`, which names what has the config (`where`), if a model cannot be trained or scored on the
    classes of a config of kaseg or of transformers: fewer than two; ids other than 0..C-1; a name that two classes
    have; a `label2id` that says otherwise than `id2label`."""
    id2label = {int(index): name for index, name in (config.id2label or {}).items()}
    if len(id2label) < 2:
        raise ValueError(
            f"{where} has {len(id2label)} class(es) (num_labels, id2label): a softmax over one class is 1 for every "
            "pixel, so nothing can be learned or scored. Use two classes, such as background (0) and object (1): "
            'num_labels=2, and masks of 0 and 1; masks of 0 and 255 with {"0": "background", "255": "object"} in '
            "classes.json."
        )
    if sorted(id2label) != list(range(len(id2label))):
        raise ValueError(
            f"{where}: id2label has the ids {', '.join(map(str, sorted(id2label)))}; they must be 0 to "
            f"{len(id2label) - 1}, since they are the channels of the logits. Map raw mask values to these in the "
            "data's label map (classes.json, LabelSpace(label_map=...))."
        )
    names = [id2label[index] for index in range(len(id2label))]
    if doubled := sorted({str(name) for name in names if names.count(name) > 1}):
        raise ValueError(f"{where}: id2label names {', '.join(doubled)} more than once: give every class its own name.")
    label2id = getattr(config, "label2id", None) or {}
    if label2id and {name: int(index) for name, index in label2id.items()} != {
        name: index for index, name in enumerate(names)
    }:
        raise ValueError(f"{where}: label2id says otherwise than id2label: leave it out, it follows from id2label.")
