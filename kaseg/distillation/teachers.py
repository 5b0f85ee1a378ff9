"""Teachers: any segmentation network as a frozen source of a tapped feature map and logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from kaseg.checkpoints import resolve
from kaseg.loading_errors import explained_loading


@dataclass
class TeacherOutput:
    """`features` (B, c_t, h_t, w_t): the tapped map. `logits` (B, C, h, w), or `None` if the module gives none."""

    features: torch.Tensor
    logits: torch.Tensor | None


class TeacherAdapter(nn.Module):
    """Wraps a segmentation network so that it can only ever be read from.

    It stays in eval mode whatever `train()` is called, has no trainable parameter and computes no gradient. The
    student's normalised images are normalised anew with the teacher's own mean and standard deviation.

    Args:
        model (`nn.Module`): The network; called with the image batch alone. A `transformers` model or any other module
            that returns logits, a dict with `"logits"` or `"out"`, or an object with `.logits`.
        tap (`str`, *optional*): Name of the submodule whose *output* is distilled (see `named_modules()`). By default
            the *input* of the classifier, i.e. of the last convolution or linear layer with `num_labels` outputs:
            the map "just before the classifier" (our reading of the paper's "last feature map").
        num_labels (`int`, *optional*): Classes of the model, read from its `config` when it has one.
        image_mean, image_std (`Sequence[float]`, *optional*): The teacher's own normalisation.
        student_mean, student_std (`Sequence[float]`, *optional*): The normalisation of the images it will be given.

    Raises:
        ValueError: there is no such submodule, or no classifier to be found without `tap`.
    """

    def __init__(
        self,
        model: nn.Module,
        tap: str | None = None,
        num_labels: int | None = None,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        student_mean: Sequence[float] | None = None,
        student_std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.tap = tap
        self._tapped: torch.Tensor | None = None
        if tap is not None:
            self._submodule(tap).register_forward_hook(self._keep_output)
        else:
            if num_labels is None:
                num_labels = getattr(getattr(model, "config", None), "num_labels", None)
            self._classifier(num_labels).register_forward_pre_hook(self._keep_input)
        scale, shift = _renormalization(image_mean, image_std, student_mean, student_std)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.scale: torch.Tensor | None
        self.shift: torch.Tensor | None
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str,
        tap: str | None = None,
        student_mean: Sequence[float] | None = None,
        student_std: Sequence[float] | None = None,
    ) -> TeacherAdapter:
        """A teacher from a Hub id, folder or shipped name, with its own mean and std.

        Any model that `AutoModelForSemanticSegmentation` knows will do, if its weights are safetensors. Code that comes
        with a repository is not run: load such a model yourself and wrap it.

        Raises:
            OSError: no such model, no right to read it, no network, or damaged or no safetensors weights.
            ValueError: a model that transformers does not know.
        """
        name_or_path = resolve(name_or_path)
        with explained_loading(name_or_path):
            model = AutoModelForSemanticSegmentation.from_pretrained(
                name_or_path, use_safetensors=True, trust_remote_code=False
            )
            processor = AutoImageProcessor.from_pretrained(name_or_path, trust_remote_code=False)
        normalizes = getattr(processor, "do_normalize", True)
        return cls(
            model,
            tap=tap,
            image_mean=processor.image_mean if normalizes else None,
            image_std=processor.image_std if normalizes else None,
            student_mean=student_mean,
            student_std=student_std,
        )

    def train(self, mode: bool = True) -> TeacherAdapter:
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixel_values: torch.Tensor) -> TeacherOutput:
        """(B, 3, H, W) images, normalised as the student's -> tapped map and logits."""
        if self.scale is not None and self.shift is not None:
            pixel_values = pixel_values * self.scale + self.shift
        output = self.model(pixel_values)
        features, self._tapped = self._tapped, None
        if features is None:
            raise ValueError(f"The teacher's forward pass never reached its tap ({self.tap or 'the classifier'}).")
        if features.ndim != 4:
            raise ValueError(
                f"The teacher's tap gives a tensor of shape {tuple(features.shape)}; distillation needs a map "
                "(batch, channels, height, width). Name another submodule with tap=."
            )
        return TeacherOutput(features, _logits(output))

    @torch.no_grad()
    def describe(self, image_size: int = 128, num_channels: int = 3) -> tuple[int, int]:
        """Channels and stride of the tapped map, from a dry run on a square image of `image_size` pixels."""
        parameter = next(self.model.parameters())
        features = self(torch.zeros(1, num_channels, image_size, image_size, device=parameter.device)).features
        stride = 2 ** round(float(torch.log2(torch.tensor(image_size / features.shape[-1]))))
        return features.shape[1], stride

    def _submodule(self, name: str) -> nn.Module:
        modules = dict(self.model.named_modules())
        if name not in modules:
            top = ", ".join(n for n in modules if n and "." not in n)
            raise ValueError(f"The teacher has no submodule {name!r} to tap. Its top-level submodules are: {top}.")
        return modules[name]

    def _classifier(self, num_labels: int | None) -> nn.Module:
        candidates = [
            m
            for m in self.model.modules()
            if (isinstance(m, nn.Conv2d) and m.out_channels == num_labels)
            or (isinstance(m, nn.Linear) and m.out_features == num_labels)
        ]
        if not candidates:
            raise ValueError(
                f"Found no convolution with num_labels={num_labels} outputs in {type(self.model).__name__}; "
                "name the submodule whose output is to be distilled with tap=."
            )
        return candidates[-1]

    def _keep_output(self, module: nn.Module, args: tuple, output: torch.Tensor | tuple | list) -> None:
        self._tapped = output[-1] if isinstance(output, tuple | list) else output

    def _keep_input(self, module: nn.Module, args: tuple) -> None:
        self._tapped = args[0]


def _renormalization(
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    student_mean: Sequence[float] | None,
    student_std: Sequence[float] | None,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Scale and shift (1, C, 1, 1) that turn the student's normalised pixels into the teacher's."""
    if student_mean is None or student_std is None or mean is None or std is None:
        return None, None
    if list(mean) == list(student_mean) and list(std) == list(student_std):
        return None, None
    own_mean, own_std = torch.tensor(list(mean)), torch.tensor(list(std))
    from_mean, from_std = torch.tensor(list(student_mean)), torch.tensor(list(student_std))
    scale = from_std / own_std
    shift = (from_mean - own_mean) / own_std
    return scale.view(1, -1, 1, 1), shift.view(1, -1, 1, 1)


def _logits(output: object) -> torch.Tensor | None:
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, dict):
        return output.get("logits", output.get("out"))
    return getattr(output, "logits", None)
