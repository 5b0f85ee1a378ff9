"""Teachers that insist on an image size: what they are given in place of the student's image."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from timm.layers import PatchEmbed
from torch import nn
from torch.nn import functional as F

from kaseg.modeling_kaseg import align_to_image

# transformers models that reshape their tokens to the grid of config.image_size, or (DPT) to a square.
_FIXED = ("data2vec-vision", "dpt", "eomt", "eomt_dinov3")
# transformers models that silently leave out what goes beyond the last whole patch.
_WHOLE_PATCHES = ("beit", "sapiens2", "tipsv2_dpt")


@dataclass(frozen=True)
class InputSize:
    """What image sizes a teacher takes.

    An image of another size than `fixed` is resized to it bilinearly; one that is no multiple of `multiple` is padded
    at the right and at the bottom with the teacher's mean color. Its maps are brought back to what they would measure
    at the student's image, so that they keep their stride and their place (our choice).

    Args:
        fixed: Height and width of the only size that is taken, if there is but one.
        multiple: What height and width must be multiples of, 1 for any size.
        shift: How many pixels of the image a map's positions lie to the right of and below the centers of their cells.
            TensorFlow pads strided convolutions on one side only, which adds up to 7.5 pixels at stride 16: Google's
            DeepLab loses points on photographs if its map is taken to lie evenly.
    """

    fixed: tuple[int, int] | None = None
    multiple: int = 1
    shift: float = 0.0

    @classmethod
    def of(cls, model: nn.Module) -> Self:
        """What is known of transformers, segmentation_models.pytorch and timm models; any size for all others."""
        config: Any = getattr(model, "config", None)
        kind = getattr(config, "model_type", None)
        if kind in _FIXED:
            return cls(fixed=_pair(config.image_size))
        if kind in _WHOLE_PATCHES:
            return cls(multiple=max(_pair(config.patch_size)))
        if kind == "mobilenet_v2" and config.tf_padding:
            # Every side of every map is even then, so that each strided convolution shifts by half of its pixels.
            return cls(multiple=config.output_stride, shift=(config.output_stride - 1) / 2)
        embeddings = [module for module in model.modules() if isinstance(module, PatchEmbed)]
        for module in embeddings:
            if module.img_size is not None and module.strict_img_size:
                return cls(fixed=_pair(module.img_size))
        if getattr(model, "requires_divisible_input_shape", False):  # segmentation_models.pytorch
            encoder: Any = model.encoder
            return cls(multiple=encoder.output_stride)
        return cls(multiple=max([1, *(max(m.patch_size) for m in embeddings if not m.dynamic_img_pad)]))

    def fit(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) as the teacher takes it; the same tensor if it is so already."""
        height, width = images.shape[-2:]
        if self.fixed is not None:
            if (height, width) == self.fixed:
                return images
            return F.interpolate(images, size=self.fixed, mode="bilinear", align_corners=False, antialias=True)
        return F.pad(images, (0, -width % self.multiple, 0, -height % self.multiple))

    def restore(self, feature_map: torch.Tensor, given: tuple[int, int], fitted: tuple[int, int]) -> torch.Tensor:
        """A map (B, c, h, w) of the fitted image as the map of the given one: the part of it that is not padding, or
        resized bilinearly to the size that keeps its stride."""
        if self.shift:
            feature_map = _moved(feature_map, self.shift * feature_map.shape[-1] / fitted[1])
            return align_to_image(feature_map, given, fitted[1] // feature_map.shape[-1])
        if given == fitted:
            return feature_map
        if self.fixed is None:
            sizes = zip(feature_map.shape[-2:], given, fitted, strict=True)
            height, width = (-(-size * wanted // had) for size, wanted, had in sizes)
            return feature_map[..., :height, :width]
        return resized_map(feature_map, given, fitted)

    def __str__(self) -> str:
        if self.fixed is not None:
            return f"images are resized to {self.fixed[0]}x{self.fixed[1]}, its maps back"
        if self.multiple > 1:
            return f"images are padded to multiples of {self.multiple}, its maps cut back"
        return "images of any size"


def _moved(feature_map: torch.Tensor, positions: float) -> torch.Tensor:
    """A map whose values lie by a part of a position further to the right and below, linear between neighbors."""
    for axis in (-2, -1):
        first, rest = feature_map.narrow(axis, 0, 1), feature_map.narrow(axis, 0, feature_map.shape[axis] - 1)
        before = torch.cat([first, rest], axis)
        feature_map = feature_map.lerp(before, positions)
    return feature_map


def resized_map(
    feature_map: torch.Tensor, wanted: tuple[int, int], had: tuple[int, int], mode: str = "bilinear"
) -> torch.Tensor:
    """A map (B, c, h, w) of an image of `had` pixels in the size that keeps its stride at `wanted` pixels; `mode` is
    `"bilinear"`, or `"area"` for the mean, where it shrinks."""
    sizes = zip(feature_map.shape[-2:], wanted, had, strict=True)
    size = [max(1, round(side * to / before)) for side, to, before in sizes]
    return F.interpolate(feature_map, size=size, mode=mode, align_corners=False if mode == "bilinear" else None)


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)
