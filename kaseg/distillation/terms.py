"""Named losses as trainable terms: what each one reads of the teacher, on which grid, and through which adapter."""

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kaseg.close_names import did_you_mean
from kaseg.distillation import losses
from kaseg.distillation.adapters import AffinityAdapter, FeatureAdapter, OrthogonalAdapter
from kaseg.distillation.losses.base import MapLoss
from kaseg.distillation.map_shape import MapShape
from kaseg.losses import LOSSES
from kaseg.pixels import VOID

AUTO = "auto"  # in place of a weight: set by GradientBalance
TAUGHT_IMAGES = ("all", "unlabelled")


def regressor(in_channels: int, out_channels: int) -> nn.Module:
    """Convolution 1x1 with bias: FitNets' regressor, and what brings maps of different channels together in CWD."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1)


def adaptation_loss(form: str) -> str:
    """Name in `TERM_KINDS` of the adaptation loss in one of the `ADAPTATION_FORMS`."""
    return "adaptation" if form == "position" else f"adaptation_{form}"


@dataclass(frozen=True)
class TermKind:
    """How a loss is fed.

    The arguments of the loss that have a default (`int`, `float`, `str` or `bool`) are the options of the term. One
    without a default is only possible as `channels`, which is given the teacher's number of channels.

    Attributes:
        loss: The loss. If its `takes_weights` is set, it follows `distillation_class_weights`.
        sources: What it can read: the teacher's `"code"` (through the autoencoder), tapped `"features"`, or `"logits"`.
            The first is the default.
        grid: `"student"`: the teacher's map is resized to the student's; `"teacher"`: the other way round; `"own"`:
            both stay as they are, and the loss is called with a mask for each, `loss(student, teacher, mask,
            teacher_mask)`.
        adapter: Makes the module that carries the student's features to the teacher's channels; `None` where channels
            need not agree.
        always_adapted: Whether there is an adapter even where channels agree.
    """

    loss: type[MapLoss]
    sources: tuple[str, ...]
    grid: str
    adapter: Callable[[int, int], nn.Module] | None = None
    always_adapted: bool = True

    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Arguments of the loss by name."""
        return inspect.signature(self.loss).parameters

    def options(self) -> dict[str, Any]:
        """Options of the term and their defaults."""
        # A loss without an __init__ of its own shows that of nn.Module, whose arguments have no default.
        options = {p.name: p.default for p in self.parameters().values() if p.default is not inspect.Parameter.empty}
        return options | ({"source": self.sources[0]} if len(self.sources) > 1 else {})


PAPER_TERMS = {
    "adaptation": TermKind(losses.AdaptationLoss, ("code", "features"), "student", FeatureAdapter),
    "affinity": TermKind(losses.AffinityLoss, ("code", "features"), "student", AffinityAdapter),
}
# What the adaptation term compares the code by; "position" is the paper's.
ADAPTATION_FORMS = {
    "position": PAPER_TERMS["adaptation"],
    "channel": TermKind(losses.PearsonLoss, ("code", "features"), "student", FeatureAdapter),
    "whitened": TermKind(losses.WhitenedLoss, ("code", "features"), "student", OrthogonalAdapter),
}
# Grids: He et al. 2019 upsample the student's logits and features to the teacher's size for KD and FitNets; in CWD,
# DIST, IFVD and AT maps have one size, and the choice is ours. Pairwise pools both to its nodes.
BASELINE_TERMS = {
    "knowledge_distillation": TermKind(losses.KnowledgeDistillationLoss, ("logits",), "teacher"),
    "hint": TermKind(losses.HintLoss, ("features",), "teacher", regressor),
    "attention_transfer": TermKind(losses.AttentionTransferLoss, ("features",), "student"),
    "pairwise": TermKind(losses.PairwiseLoss, ("features",), "own"),
    "channel_wise": TermKind(losses.ChannelWiseLoss, ("logits", "features"), "teacher", regressor, False),
    "intra_class": TermKind(losses.IntraClassLoss, ("features",), "student"),
    "dist": TermKind(losses.DistLoss, ("logits",), "teacher"),
}
TERM_KINDS = PAPER_TERMS | BASELINE_TERMS | {adaptation_loss(form): kind for form, kind in ADAPTATION_FORMS.items()}
_NOT_OF_THE_LOSS = ("weight", "share", "source", "loss", "images")


class DistillationTerm(nn.Module):
    """One weighted loss with its adapter.

    Args:
        name, kind, loss: Its name in logs and settings, how the loss is fed, and the loss.
        weight (`float` or `"auto"`): Its weight in the total loss, or that it is set by its gradient.
        source: Which of `kind.sources` it reads.
        student, teacher: Channels and strides of the two maps that it compares.
        ignore_void: Leave out positions whose label is void.
        class_weights: Weigh each position by that of its label's class, and by 1 where the label is void; losses that
            do not take weights leave this alone.
        images (`"all"` or `"unlabelled"`): Images of the batch that it is taken over: all, or those without any label.
    """

    def __init__(
        self,
        name: str,
        kind: TermKind,
        weight: float | str,
        source: str,
        loss: MapLoss,
        student: MapShape,
        teacher: MapShape,
        ignore_void: bool = False,
        class_weights: Sequence[float] | None = None,
        images: str = "all",
    ) -> None:
        super().__init__()
        self.name, self.kind, self.weight, self.source, self.loss = name, kind, weight, source, loss
        self.ignore_void, self.images = ignore_void, images
        self.stride = teacher.stride if kind.grid == "teacher" else student.stride
        self.register_buffer("label_weights", None, persistent=False)
        self.label_weights: Tensor | None
        if class_weights is not None and loss.takes_weights:
            self.label_weights = weights_of_labels(class_weights, 0.0 if ignore_void else 1.0)
        adapts = kind.adapter is not None and source != "logits"
        self.adapter: nn.Module | None = None
        if adapts and (kind.always_adapted or student.channels != teacher.channels):
            assert kind.adapter is not None
            self.adapter = kind.adapter(student.channels, teacher.channels)

    @property
    def needs_labels(self) -> bool:
        return self.images == "unlabelled" or self._weighs_positions

    @property
    def _weighs_positions(self) -> bool:
        return self.loss.takes_labels or self.ignore_void or self.label_weights is not None

    def grid(self, image_size: Sequence[int]) -> tuple[int, int]:
        """Height and width of the map on which the term is taken, for images of `image_size` (height, width) pixels."""
        return math.ceil(image_size[0] / self.stride), math.ceil(image_size[1] / self.stride)

    def forward(
        self, student: Tensor, teacher: Tensor, image_size: Sequence[int], labels: Tensor | None = None
    ) -> Tensor:
        """The loss, a scalar that is not weighted.

        Args:
            student, teacher: Maps (B, c, h, w) as `source` says; of the student the logits, or else the tapped
                features.
            image_size: Height and width of the images in pixels.
            labels: (B, H, W); needed where `needs_labels` says so.
        """
        if self.adapter is not None:
            student = self.adapter(student)  # of the whole batch, whose statistics it normalizes by
        if self.images == "unlabelled" and labels is not None:
            chosen = _unlabelled(labels)
            if not chosen.any():
                return student.flatten()[:0].sum()  # 0, with a gradient
            student, teacher, labels = student[chosen], teacher[chosen], labels[chosen]
        size = self.grid(image_size)
        if self.kind.grid != "own":
            student, teacher = _resize(student, size), _resize(teacher, size)
        if labels is None or not self._weighs_positions:
            return self.loss(student, teacher)
        if self.kind.grid == "own":
            at_maps = (labels_at(labels, feature_map.shape[-2:]).ne(VOID) for feature_map in (student, teacher))
            return self.loss(student, teacher, *at_maps)
        at_grid = labels_at(labels, size)
        if self.loss.takes_labels:
            return self.loss(student, teacher, at_grid)
        if self.label_weights is not None:
            return self.loss(student, teacher, self.label_weights[at_grid.long()])
        return self.loss(student, teacher, at_grid.ne(VOID))

    def count(self, labels: Tensor) -> Tensor:
        """What the mean over a batch with these labels `(B, H, W)`, of the images' size, is taken over: its number of
        images or of positions, or the sum of their weights. Means weighted by these numbers and divided by their sum
        are the mean over all."""
        size = self.grid(labels.shape[-2:])
        if self.images == "unlabelled":
            labels = labels[_unlabelled(labels)]
        if self.loss.per_image:
            return labels.new_full((), len(labels))
        if self.label_weights is not None:
            return self.label_weights[labels_at(labels, size).long()].sum()
        if self._weighs_positions:
            return labels_at(labels, size).ne(VOID).sum()
        return labels.new_full((), len(labels) * size[0] * size[1])

    def extra_repr(self) -> str:
        return f"{self.name}, weight={self.weight}, source={self.source}"


def weights_of_labels(class_weights: Sequence[float], void: float = 1.0) -> Tensor:
    """The weights of labels 0 to 255: those of the classes, and `void` for void and for labels that no class has."""
    weights = torch.full((VOID + 1,), void)
    weights[: len(class_weights)] = torch.tensor(list(class_weights), dtype=torch.float32)
    return weights


def _unlabelled(labels: Tensor) -> Tensor:
    """Which images of labels `(B, H, W)` have none."""
    return labels.eq(VOID).flatten(1).all(1)


def labels_at(labels: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Labels `(B, H, W)` at the nearest pixel of each position of a coarser grid."""
    return F.interpolate(labels[:, None].float(), size=tuple(size), mode="nearest-exact")[:, 0].to(labels.dtype)


def parse_losses(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Baseline losses by name with their weight and options, checked and in one form.

    Args:
        settings (`Mapping`): Name -> weight, or name -> `{"weight": 3.0, option: value}`. Names are those of
            `BASELINE_TERMS`, options the arguments of the loss and, where it can read several, `source`. A weight is a
            number or `"auto"`, beside which `share` may stand (see [`~kaseg.distillation.balance.GradientBalance`]).
            `images: unlabelled` takes a loss over the images without masks alone.
            To have one loss twice, with other options, give the second a name of its own and the `loss` it is:
            `{"on_features": {"loss": "channel_wise", "weight": 50.0, "source": "features"}}`.

    Returns:
        Name -> `{"weight": ..., option: ...}` with numbers as numbers.

    Raises:
        ValueError: an unknown name or option (the message names close ones), a missing or negative weight, or a value
            that the loss does not take.
    """
    if not isinstance(settings, Mapping):
        raise ValueError(f"distillation_losses must map names to weights or options, got {settings!r}.")
    parsed: dict[str, dict[str, Any]] = {}
    complete: dict[str, dict[str, Any]] = {}
    for name, given in settings.items():
        where = f"distillation_losses: {name}"
        options = dict(given) if isinstance(given, Mapping) else {"weight": given}
        kind = _baseline(name, options)
        known = {"weight": 1.0, "share": 1.0, "loss": kind, "images": "all", **BASELINE_TERMS[kind].options()}
        for option in options:
            if option not in known:
                raise ValueError(f"{where}: unknown option {option!r}.{_did_you_mean(option, known)}")
        if "weight" not in options:
            raise ValueError(f"{where}: no weight is given; write {{weight: 1.0, ...}}.")
        weight = parse_weight(options.pop("weight"), f"{where}: weight")
        typed = {option: _typed(value, known[option], f"{where}: {option}") for option, value in options.items()}
        if "share" in typed:
            check_share(typed["share"], f"{where}: share")
            if weight != AUTO:
                raise ValueError(f"{where}: share belongs to a weight of {AUTO}, but the weight is {weight}.")
        if typed.get("images", "all") not in TAUGHT_IMAGES:
            raise ValueError(f"{where}: images must be one of {TAUGHT_IMAGES}, got {typed['images']!r}.")
        if typed.get("images") == "unlabelled" and BASELINE_TERMS[kind].loss.takes_labels:
            raise ValueError(f"{where}: images: unlabelled, but {kind} leaves out what has no label.")
        typed = {"weight": weight, **typed}
        _build_loss(name, typed, channels=1)
        complete[name] = {**known, **typed, "weight": None, "share": None}
        if twin := next((other for other in parsed if complete[other] == complete[name]), None):
            raise ValueError(f"{where} is the same as {twin} but for the weight: leave one of them out.")
        parsed[name] = typed
    return parsed


def _baseline(name: Any, options: Mapping[str, Any]) -> str:
    """Which of `BASELINE_TERMS` an entry is: what its `loss` says, or its name."""
    kind, own = str(options.get("loss", name)), str(name)
    for given in (own, kind):
        if given in PAPER_TERMS:
            raise ValueError(
                f"distillation_losses: {name}: {given} is one of the paper's own terms: set {given}_weight instead."
            )
    if kind not in BASELINE_TERMS:
        where = "distillation_losses:" if kind == own else f"distillation_losses: {name}:"
        raise ValueError(f"{where} unknown loss {kind!r}.{_did_you_mean(kind, BASELINE_TERMS)}")
    # It is the name of a module and of a line in the logs.
    taken = (own in BASELINE_TERMS and kind != own) or own in LOSSES or hasattr(nn.ModuleDict(), own)
    if taken or not re.fullmatch(r"[A-Za-z]\w*", own):
        raise ValueError(
            f"distillation_losses: {name!r} cannot be the name of a {kind} loss: take letters, digits and _, and no "
            "name that has another meaning."
        )
    return kind


def parse_weight(value: Any, where: str) -> float | str:
    """A term's weight, a number of at least 0 or `"auto"`; a ValueError that starts with `where` if it is neither."""
    if isinstance(value, str) and value.strip().lower() == AUTO:
        return AUTO
    weight = _typed(value, 1.0, where)
    if not 0 <= weight < math.inf:
        raise ValueError(f"{where} must be a number of at least 0 or {AUTO}, got {weight}.")
    return weight


def check_share(share: float, where: str) -> None:
    """Raise a ValueError that starts with `where` if a term cannot have this share of the labels' gradient."""
    if not 0 < share < math.inf:
        raise ValueError(f"{where} must be a positive number, got {share}.")


def sources_of(settings: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """What terms with these settings read of the teacher; those of weight 0 read nothing."""
    return {_source(name, options) for name, options in settings.items() if options["weight"]}


def build_terms(
    settings: Mapping[str, Mapping[str, Any]],
    student: Mapping[str, MapShape],
    teacher: Mapping[str, MapShape],
    ignore_void: bool = False,
    class_weights: Sequence[float] | None = None,
) -> dict[str, DistillationTerm]:
    """The terms by name; those of weight 0 are left out.

    Args:
        settings (`Mapping`): Name -> `{"weight": ..., "source": ..., option: ...}`, as [`parse_losses`] returns.
        student, teacher (`Mapping[str, MapShape]`): What the two networks give: `"features"`, `"logits"` and, for the
            teacher, `"code"`.
        ignore_void, class_weights: As in [`DistillationTerm`].
    """
    terms = {}
    for name, options in settings.items():
        if options["weight"]:
            kind, source = _kind(name, options), _source(name, options)
            terms[name] = DistillationTerm(
                name,
                kind,
                options["weight"],
                source,
                _build_loss(name, options, teacher[source].channels),
                student["logits" if source == "logits" else "features"],
                teacher[source],
                ignore_void,
                class_weights,
                options.get("images", "all"),
            )
    return terms


def has_adapters(settings: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether any of the terms may have an adapter, as far as that shows without the networks."""
    kinds = [(_kind(name, options), _source(name, options)) for name, options in settings.items() if options["weight"]]
    return any(kind.adapter is not None and source != "logits" for kind, source in kinds)


def _kind(name: str, options: Mapping[str, Any]) -> TermKind:
    return TERM_KINDS[options.get("loss", name)]


def _source(name: str, options: Mapping[str, Any]) -> str:
    return options.get("source", _kind(name, options).sources[0])


def _build_loss(name: str, options: Mapping[str, Any], channels: int) -> MapLoss:
    """The loss of a term between a student's map and a teacher's of so many `channels`."""
    kind, source = _kind(name, options), _source(name, options)
    if source not in kind.sources:
        raise ValueError(f"distillation_losses: {name}: source must be one of {kind.sources}, got {source!r}.")
    arguments = {option: value for option, value in options.items() if option not in _NOT_OF_THE_LOSS}
    if "channels" in kind.parameters():
        arguments["channels"] = channels
    try:
        return kind.loss(**arguments)
    except ValueError as error:
        raise ValueError(f"distillation_losses: {name}: {error}") from None


def _typed(value: Any, default: Any, where: str) -> Any:
    """`value` as the type of `default`; YAML takes 1e-3 for text."""
    try:
        if isinstance(value, bool) != isinstance(default, bool) or value is None:
            raise ValueError
        number = type(default)(value)
        if isinstance(default, int) and number != float(value):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(f"{where} must be a {type(default).__name__}, got {value!r}.") from None
    return number


def _did_you_mean(name: str, known: Mapping[str, Any]) -> str:
    return did_you_mean(name, known, cutoff=0.5, otherwise=f" There are {', '.join(known)}.")


def _resize(features: Tensor, size: tuple[int, int]) -> Tensor:
    """`features` at height and width `size`, in float32 where sizes differ.

    Bilinear; but where there are at least twice as many positions along each side, means over areas, so that every one
    of them counts.
    """
    if features.shape[-2:] == size:
        return features
    if features.shape[-2] >= 2 * size[0] and features.shape[-1] >= 2 * size[1]:
        return F.interpolate(features.float(), size=size, mode="area")
    return F.interpolate(features.float(), size=size, mode="bilinear", align_corners=False)
