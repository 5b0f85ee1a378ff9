"""The adapter that makes a frozen teacher of any segmentation network."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional as F

from kaseg.distillation.map_shape import MapShape
from kaseg.distillation.teachers.input_sizes import InputSize, resized_map
from kaseg.distillation.teachers.label_matching import LabelMap, LabelMatch, match_labels
from kaseg.distillation.teachers.loading import check_usable, load_teacher
from kaseg.distillation.teachers.normalization import find_normalization
from kaseg.distillation.teachers.output_stride import at_output_stride
from kaseg.distillation.teachers.outputs import TeacherOutput, logits_of
from kaseg.distillation.teachers.taps import (
    Tap,
    as_map,
    becomes,
    example_image,
    find_tap,
    named_tap,
    patch_size_of,
    recorded,
    reference_tensor,
)
from kaseg.modeling_kaseg import KASegModel
from kaseg.pixels import Normalization

logger = logging.getLogger(__name__)


class TeacherAdapter(nn.Module):
    """Wraps a segmentation network so that it can only ever be read from.

    It stays in eval mode whatever `train()` is called, has no trainable parameter and computes no gradient. The
    student's normalized images are normalized again with the teacher's own mean and standard deviation, and brought to
    a size that the teacher takes ([`~kaseg.distillation.teachers.input_sizes.InputSize`]). Weights of a [`KASegModel`]
    are laid out channels-last, in place; their values stay.

    Args:
        model (`nn.Module`, `str` or `Path`): The network; called with the image batch. A Hub id, folder or shipped name
            is loaded as by [`~TeacherAdapter.from_pretrained`]. A `transformers` model for semantic segmentation,
            Mask2Former, MaskFormer, OneFormer or EoMT, a model of segmentation_models.pytorch or torchvision, or any
            other module that returns logits (B, C, h, w), a dict with `"logits"` or `"out"`, an object with `.logits`,
            or a tuple that starts with logits.
        tap (`str`, *optional*): Name of the submodule whose *output* is distilled; see
            [`~kaseg.distillation.list_taps`]. By default the *input* of the classifier, or the map that a universal
            model's mask queries are multiplied with.
        num_labels (`int`, *optional*): Classes of the model; by default as its `config` says, or as its logits have.
        image_mean, image_std (`Sequence[float]`, *optional*): The teacher's own normalization of pixels in 0..1; by
            default what [`~kaseg.distillation.teachers.normalization.find_normalization`] finds, else the student's.
        student_mean, student_std (`Sequence[float]`, *optional*): The normalization of the images it will be given. By
            default they are taken to be normalized for the teacher, until [`~TeacherAdapter.expect_images`] is called,
            as the trainer does.
        flip_channels (`bool`, *optional*, defaults to `False`): The teacher reads BGR.
        class_names (`Sequence[str]`, *optional*): Names of the teacher's classes by id; by default those in `config`.
        student_labels (`Mapping[int, str]`, *optional*): `id2label` of the student, see [`~TeacherAdapter.match`].
        label_map (`Mapping`, *optional*): Student's class -> teacher's class or classes, see [`~TeacherAdapter.match`].
        model_inputs (`Mapping[str, Tensor]`, *optional*): Further arguments of the forward pass, the same for every
            image, with a first dimension of 1: OneFormer's `task_inputs`.
        input_size ([`InputSize`], *optional*): What image sizes the network takes, if it is not known by itself.
        image_scale (`float`, *optional*, defaults to 1.0): Factor by which images are resized (bilinearly) for the
            teacher; its maps are brought back to the size that they have at 1, by their mean where they shrink. It
            costs `image_scale**2` times as much (our choice; see `docs/camvid.md`).
        output_stride (`int`, *optional*): Another output stride for the same weights, see
            [`~kaseg.distillation.teachers.output_stride.at_output_stride`]; `model` itself stays as it is.

    Raises:
        OSError: as from_pretrained, of a name.
        ValueError: the model is none of these, there is no such submodule, no classifier to be found without `tap`,
            `label_map` does not fit, a mean comes without its standard deviation, `image_scale` is not positive, or not
            1 where the network takes images of one size alone, or the network cannot have this `output_stride`.

    Attributes:
        normalization ([`~kaseg.pixels.Normalization`] or `None`): The teacher's own, as given or found.
        expected_images: Mean and standard deviation of the images that it is given; `None` if they are not known.
        known_classes (`LongTensor` of shape `(K,)` or `None`): The student's ids of the channels of the logits,
            ascending; `None` while no student's labels are known.
    """

    def __init__(
        self,
        model: nn.Module | str | Path,
        tap: str | None = None,
        num_labels: int | None = None,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        student_mean: Sequence[float] | None = None,
        student_std: Sequence[float] | None = None,
        flip_channels: bool = False,
        class_names: Sequence[str] | None = None,
        student_labels: Mapping[int, str] | None = None,
        label_map: LabelMap | None = None,
        model_inputs: Mapping[str, torch.Tensor] | None = None,
        input_size: InputSize | None = None,
        image_scale: float = 1.0,
        output_stride: int | None = None,
    ) -> None:
        super().__init__()
        if isinstance(model, str | Path):
            loaded = load_teacher(str(model))
            model, model_inputs = loaded.model, model_inputs or loaded.model_inputs
            if loaded.normalization is not None and image_mean is None and image_std is None:
                found = loaded.normalization
                image_mean, image_std, flip_channels = found.mean, found.std, flip_channels or found.flip_channels
        if not isinstance(model, nn.Module) or isinstance(model, TeacherAdapter):
            raise ValueError(
                "A teacher is a Hub id, a folder, a shipped name (kaseg.list_models()) or a network (nn.Module), not a "
                f"{type(model).__name__}."
            )
        check_usable(model, model_inputs)
        self.output_stride = output_stride
        self.model = model if output_stride is None else at_output_stride(model, output_stride)
        self.requires_grad_(False)
        self.eval()
        if isinstance(model, KASegModel):
            # Faster, on a CPU by far; other networks may reshape maps in ways that need the other layout.
            self.model.to(memory_format=torch.channels_last)
        self.input_size = InputSize.of(self.model) if input_size is None else input_size
        if image_scale <= 0 or (image_scale != 1 and self.input_size.fixed is not None):
            raise ValueError(
                "image_scale (teacher_scale of a run) must be positive, and 1 for a teacher that takes one size alone; "
                f"got {image_scale}, and {self.input_size}."
            )
        self.image_scale = image_scale
        self._input_names = tuple(model_inputs or ())
        for name, value in (model_inputs or {}).items():
            self.register_buffer(f"input_{name}", value, persistent=False)
        self._normalize_for((image_mean, image_std), (student_mean, student_std), flip_channels)
        config = getattr(self.model, "config", None)
        if num_labels is None:
            num_labels = getattr(config, "num_labels", None)  # not every `config` is one of transformers
        self.tap = (
            named_tap(self.model, tap, self._dry_run)
            if tap
            else find_tap(self.model, num_labels, self._dry_run, logits_of)
        )
        logger.info("Teacher %s: %s is distilled; %s.", type(model).__name__, self.tap, self.input_size)
        names = getattr(config, "id2label", None)
        if class_names is None and names:
            class_names = [names[index] for index in sorted(names)]
        self.class_names = None if class_names is None else tuple(class_names)
        self.label_match: LabelMatch | None = None
        self.register_buffer("known_classes", None, persistent=False)
        self.known_classes: torch.Tensor | None
        if student_labels is not None:
            self.match(student_labels, label_map)
        elif label_map is not None:
            raise ValueError("label_map would change nothing: it belongs to student_labels, which are missing.")

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, tap: str | None = None, **options: Any) -> Self:
        """`TeacherAdapter(name_or_path, tap, **options)`: a teacher from a Hub id, folder or shipped name.

        Any semantic or universal segmentation model of transformers, or one saved by segmentation_models.pytorch, whose
        weights are safetensors. Code that comes with a repository is not run: load such a model yourself and wrap it.

        Raises:
            OSError: no such model, no right to read it, no network, or damaged or no safetensors weights.
            ValueError: a model of another kind, or one that cannot have this stride.
        """
        return cls(str(name_or_path), tap, **options)

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    @torch.compiler.disable
    def _stay_in_eval_mode(self) -> None:
        # Whoever holds the network may have switched it without passing through our train().
        self.model.eval()

    @torch.no_grad()
    def forward(self, pixel_values: torch.Tensor) -> TeacherOutput:
        """(B, 3, H, W) images, normalized as the student's -> tapped map and logits, in float32; under autocast in the
        type that they were computed in, since the next layer would only convert a large map back. A ValueError if the
        forward pass does not reach the tap, or the tap gives no map."""
        self._stay_in_eval_mode()
        if self.scale is not None and self.shift is not None:
            pixel_values = pixel_values * self.scale + self.shift
        if self.flip_channels:
            pixel_values = pixel_values.flip(1)
        pixels: tuple[int, int] = (pixel_values.shape[-2], pixel_values.shape[-1])
        given = (round(pixels[0] * self.image_scale), round(pixels[1] * self.image_scale))
        if given != pixels:
            pixel_values = F.interpolate(
                pixel_values, size=given, mode="bilinear", align_corners=False, antialias=self.image_scale < 1
            )
        images = self.input_size.fit(pixel_values)
        fitted: tuple[int, int] = (images.shape[-2], images.shape[-1])
        with recorded({self.tap: self.model.get_submodule(self.tap.name)}) as seen:
            output = self._run(images)
        if self.tap not in seen:
            raise ValueError(f"The teacher's forward pass never reached its tap, {self.tap}.")
        features = as_map(seen[self.tap], fitted, patch_size_of(self.model))
        if features is None:
            raise ValueError(
                f"The teacher's tap, {self.tap}, gives {_shape(seen[self.tap])}; distillation needs a map (batch, "
                "channels, height, width), or tokens of a whole grid. Name another submodule with tap=; "
                "kaseg.distillation.list_taps(model) lists them."
            )
        logits = logits_of(output)
        if logits is not None and self.label_match is not None:
            logits = self.label_match.student_logits(logits) if self.label_match.groups else None
        if not torch.is_autocast_enabled(features.device.type):
            features = features.float()
            logits = None if logits is None else logits.float()

        def restore_resolution(feature_map: torch.Tensor) -> torch.Tensor:
            feature_map = self.input_size.restore(feature_map, given, fitted)
            mode = "area" if self.image_scale > 1 else "bilinear"
            return feature_map if given == pixels else resized_map(feature_map, pixels, given, mode)

        return TeacherOutput(restore_resolution(features), None if logits is None else restore_resolution(logits))

    @torch.no_grad()
    def require_classifier(self) -> None:
        """Makes sure that [`~TeacherAdapter.classify`] gives the teacher's logits; a ValueError if the tap is not the
        input of a layer whose output is the logits of at least two classes."""
        layer, output = self.model.get_submodule(self.tap.name), Tap(self.tap.name)
        with recorded({output: layer}) as seen:
            logits = logits_of(self._dry_run())
        found = seen.get(output)
        if isinstance(layer, nn.Linear) and isinstance(found, torch.Tensor):
            found = found.movedim(-1, 1)
        if not self.tap.reads_input or logits is None or logits.shape[1] < 2 or not becomes(found, logits):
            raise ValueError(
                f"The teacher's tap, {self.tap}, is not what a classifier reads to give the logits of two classes or "
                "more, so nothing says which classes a reconstruction of it holds: set autoencoder_classifier_weight "
                "to 0."
            )

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """The classifier's logits of a map (B, c_t, h, w) that replaces the tapped one: the teacher's own classes, in
        the map's size. Gradients reach the map alone. See [`~TeacherAdapter.require_classifier`]."""
        classifier = self.model.get_submodule(self.tap.name)
        features = features.to(reference_tensor(classifier).dtype)
        if isinstance(classifier, nn.Linear):
            return classifier(features.movedim(1, -1)).movedim(-1, 1)
        return classifier(features)

    @torch.no_grad()
    def maps(self, num_channels: int = 3) -> dict[str, MapShape]:
        """The tapped `features` and, where there are any, `logits`, from a dry run on an image of 128x128 pixels;
        strides are rounded to powers of two."""
        output = self(torch.zeros(1, num_channels, 128, 128, device=reference_tensor(self.model).device))
        maps = {"features": output.features, "logits": output.logits}
        return {
            name: MapShape(found.shape[1], 2 ** round(math.log2(128 / found.shape[-1])))
            for name, found in maps.items()
            if found is not None
        }

    def describe(self, num_channels: int = 3) -> MapShape:
        """Channels and stride of the tapped map, see [`~TeacherAdapter.maps`]."""
        return self.maps(num_channels)["features"]

    def match(self, student_labels: Mapping[int, str], label_map: LabelMap | None = None) -> LabelMatch:
        """Bring the teacher's logits to the classes of the student (its `id2label`), and return (and log) who was
        matched with whom; `label_map` and the ValueErrors are those of
        [`~kaseg.distillation.teachers.label_matching.match_labels`]."""
        if self.class_names is None:
            logits = logits_of(self._dry_run())
            count = logits.shape[1] if logits is not None else 0
            self.class_names = tuple(f"LABEL_{index}" for index in range(count))
        match = match_labels([student_labels[index] for index in sorted(student_labels)], self.class_names, label_map)
        self.label_match = match
        self.known_classes = torch.tensor(match.known_classes, device=reference_tensor(self.model).device).long()
        complete = len(match.groups) == len(match.student)
        logger.log(logging.INFO if complete else logging.WARNING, "Labels: %s.", match.report())
        return match

    def require_logits(self) -> torch.Tensor:
        """`known_classes`, for losses that compare logits; a ValueError if the teacher gives no logits, or knows fewer
        than two of the student's classes."""
        if self.label_match is None or self.known_classes is None:
            raise ValueError("The student's classes are not known: call teacher.match(student.config.id2label) first.")
        if len(self.label_match.groups) < 2:
            raise ValueError(
                "A loss between logits needs at least two classes that student and teacher share, but "
                f"{self.label_match.report()}. Say which classes belong together with teacher_label_map, or use losses "
                "between features alone."
            )
        return self.known_classes

    def summary(self) -> str:
        """The tap with its channels and stride, which images the teacher takes and which classes it knows, in words."""
        channels, stride = self.describe(num_channels=example_image(self.model, InputSize()).shape[1])
        known = f"; {self.label_match.report()}" if self.label_match is not None else ""
        return f"{self.tap}, {channels} channels at stride {stride}; {self.input_size}{known}"

    def _normalize_for(
        self,
        own: tuple[Sequence[float] | None, Sequence[float] | None],
        student: tuple[Sequence[float] | None, Sequence[float] | None],
        flip_channels: bool,
    ) -> None:
        """Keep the teacher's own normalization, and the student's if it is known."""
        for whose, (mean, std) in (("image", own), ("student", student)):
            if (mean is None) != (std is None):
                raise ValueError(f"{whose}_mean and {whose}_std belong together: give both, or neither.")
        self.normalization: Normalization | None = None
        if own[0] is not None and own[1] is not None:
            self.normalization = Normalization(tuple(own[0]), tuple(own[1]), flip_channels)
        self.flip_channels = flip_channels
        self.register_buffer("scale", None, persistent=False)
        self.register_buffer("shift", None, persistent=False)
        self.scale: torch.Tensor | None
        self.shift: torch.Tensor | None
        self.expected_images: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # their mean and deviation
        if student[0] is not None and student[1] is not None:
            self.expect_images(student[0], student[1])

    def expect_images(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take images that are normalized with the student's `mean` and `std`: from now on they are normalized again
        with the teacher's own, as given or, if it was not, found; there is a warning if it is not known."""
        if self.normalization is None:
            self.normalization = find_normalization(self.model)
            if self.normalization is None:
                logger.warning(
                    "How the teacher %s normalizes images is not known; it gets them as the student does. If that is "
                    "wrong, wrap it in TeacherAdapter(..., image_mean=..., image_std=...).",
                    type(self.model).__name__,
                )
            else:
                self.flip_channels = self.flip_channels or self.normalization.flip_channels
        own, self.expected_images = self.normalization, (tuple(mean), tuple(std))
        self.scale = self.shift = None
        if own is not None and (list(own.mean), list(own.std)) != (list(mean), list(std)):
            device = reference_tensor(self.model).device
            self.scale, self.shift = (factor.to(device) for factor in own.from_student(mean, std))

    def _run(self, images: torch.Tensor) -> Any:
        extra = {
            name: getattr(self, f"input_{name}").expand(len(images), *getattr(self, f"input_{name}").shape[1:])
            for name in self._input_names
        }
        return self.model(images.to(reference_tensor(self.model).dtype), **extra)

    @torch.no_grad()
    def _dry_run(self) -> Any:
        return self._run(example_image(self.model, self.input_size))


def _shape(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__} without a map"
