"""What a teacher makes of whole images, computed once, kept on disk and cut out for each crop of the student."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn
from torch.nn import functional as F

from kaseg.configuration_kaseg import ORIGIN_FIELDS
from kaseg.data import EvalTransform
from kaseg.data.own_samples import standard_sample
from kaseg.data.transforms import View
from kaseg.distillation.teachers.adapter import TeacherAdapter
from kaseg.image_processing_kaseg import KASegImageProcessor
from kaseg.loading_errors import is_readable
from kaseg.pixels import Normalization, to_rgb
from kaseg.writing import whole_file

# At least; more where the map is coarser. Maps then have whole positions only, and span the padded image.
PADDED_TO = 16
# An image that is reduced by more than this is read at some of its positions only.
MAX_SAMPLES_PER_SIDE = 4


class TeacherMaps:
    """Maps of a frozen teacher on whole images, one file per image and map, and their parts on the student's crops.

    A teacher that sees a crop of the student knows less than one that sees the whole image: on crops of 192 pixels of
    PASCAL VOC photographs at 0.35 to 0.8 of their size, a DeepLab has 63 mIoU where it has 80 on whole images
    (tests/benchmarks/teacher_view.py). Here it sees every image once, whole and at its own size, so a step of the
    student costs no pass of the teacher (our choice; Beyer et al. 2021, arXiv 2106.05237, call such targets a "fixed
    teacher" and find them worse in classification; there, crops are as large as what the teacher was trained on).

    Files are named by what is in them: the folder by teacher (weights and architecture), tap, classes and image scale,
    the file by the pixels. So runs may share a folder, also at the same time, samples may move from one dataset to
    another, and a changed image or teacher is computed anew, as is a file that was cut off. What a network of one's own
    keeps neither in modules nor in its `config` is not seen.

    Args:
        folder (`str` or `Path`): Where maps are kept. Half of a float32 map each: about 0.4 MB for an image of 500x375
            pixels and 256 channels at stride 16, 16 times as much at stride 4.
        teacher ([`TeacherAdapter`]): Whose maps; must know the normalization of the images it is given.
        strides (`Mapping[str, int]`): What is kept, of `"features"` and `"logits"`, each with the stride of its map.
        crop_size (`(int, int)`): Height and width of the student's crops.
        processor ([`KASegImageProcessor`]): Gives the normalization of the images that the teacher is given.
        logits_stride (`int`, *optional*): Another stride for the logits of a crop. Where the crop shrinks the image,
            the map of the whole image has more positions than a map of the crop would have; a finer grid keeps them.
    """

    def __init__(
        self,
        folder: str | Path,
        teacher: TeacherAdapter,
        strides: Mapping[str, int],
        crop_size: tuple[int, int],
        processor: KASegImageProcessor,
        logits_stride: int | None = None,
    ) -> None:
        self.sources = tuple(sorted(strides))
        normalization = Normalization.of_processor(processor)
        self.padded_to = max(PADDED_TO, *strides.values())
        # A teacher whose own normalization is not known gets images as the student does.
        images = (self.padded_to, normalization if teacher.normalization is None else None)
        self.folder = Path(folder) / _fingerprint(teacher, images)
        # What the teacher's maps of a crop would measure, so that all that follows is as if it had seen the crop.
        of_crops = {"logits": logits_stride} if logits_stride is not None and "logits" in strides else {}
        self.grids = {
            source: tuple(math.ceil(side / stride) for side in crop_size)
            for source, stride in {**strides, **of_crops}.items()
        }
        self.crop_size = crop_size
        self.transform = EvalTransform(normalization.mean, normalization.std, size_divisor=self.padded_to)

    def has(self, image: Image.Image) -> bool:
        """Whether the maps of an image are there, from the first byte to the last."""
        key = image_key(image)
        return all(is_readable(self._file(source, key)) for source in self.sources)

    @torch.no_grad()
    def add(self, image: Image.Image, teacher: Any, device: torch.device | str = "cpu") -> None:
        """Compute and keep the maps of an image, if they are not there; a ValueError if a value of them is not finite,
        or float16 cannot hold it, an OSError if the file cannot be written."""
        if self.has(image):
            return
        image = to_rgb(image)
        pixel_values = self.transform(image, Image.new("L", image.size))["pixel_values"]
        output = teacher(pixel_values[None].to(device))
        key = image_key(image)
        for source in self.sources:
            kept = getattr(output, source)[0].to("cpu", torch.float16).contiguous()
            if not kept.isfinite().all():
                raise ValueError(
                    f"The teacher's {source} on an image of {image.size[0]}x{image.size[1]} pixels are not finite in "
                    "float16 (values above 65504?): use teacher_view: crop, or another tap."
                )
            with whole_file(self._file(source, key)) as temporary:
                temporary.write_bytes(save({source: kept}))  # a full disk is an OSError, which save_file's is not

    def crop(self, image: Image.Image, view: View) -> dict[str, torch.Tensor]:
        """The teacher's maps of a crop of the whole image that the dataset gives, where the `view` of
        [`~kaseg.data.TrainTransform.with_view`] says that it lies: `teacher_features` (c, h, w) and `teacher_logits`
        (C, h, w), as far as they are kept, in float32 and of the size of the teacher's map of an image of `crop_size`;
        logits of that at `logits_stride`, if given. Beyond the image the map's edge goes on.

        Raises:
            FileNotFoundError: the maps of this image are not there.
            ValueError: the file is damaged.
        """
        image = to_rgb(image)
        key = image_key(image)
        return {
            f"teacher_{source}": self._cut(self._read(source, key), image.size, view, *grid)
            for source, grid in self.grids.items()
        }

    def _cut(self, whole: torch.Tensor, size: tuple[int, int], view: View, height: int, width: int) -> torch.Tensor:
        x0, y0, dx, dy = view
        padded = tuple(math.ceil(side / self.padded_to) * self.padded_to for side in size)  # width, height
        # Where the crop shrinks the image, one sample per position would leave some of the map out.
        dense = min(MAX_SAMPLES_PER_SIDE, max(1, math.ceil(max(abs(dx), abs(dy)) - 1e-3)))
        across = (torch.arange(width * dense) + 0.5) * (self.crop_size[1] / (width * dense))
        down = (torch.arange(height * dense) + 0.5) * (self.crop_size[0] / (height * dense))
        xs, ys = (2 * (x0 + dx * across) / padded[0] - 1), (2 * (y0 + dy * down) / padded[1] - 1)
        grid = torch.stack(torch.meshgrid(ys, xs, indexing="ij")[::-1], dim=-1)[None]
        found = F.grid_sample(whole[None], grid, mode="bilinear", padding_mode="border", align_corners=False)
        return (F.avg_pool2d(found, dense) if dense > 1 else found)[0]

    def _file(self, source: str, key: str) -> Path:
        return self.folder / source / key[:2] / f"{key}.safetensors"

    def _read(self, source: str, key: str) -> torch.Tensor:
        file = self._file(source, key)
        try:
            return load_file(file)[source].float()
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged ({error}): the same command computes it anew.") from error


def whole_image(samples: Any, index: int) -> Image.Image:
    """The image of a training sample, in any of the forms of [`~kaseg.data.own_samples.standard_sample`]; a ValueError
    that names it if it cannot be read, or is prepared already."""
    try:
        sample = standard_sample(samples[index], with_label=False)
    except Exception as error:  # Pillow raises whatever broken bytes run into, and names no file
        raise ValueError(f"Training image number {index} cannot be read: {error}") from error
    if "image" not in sample:
        raise ValueError(
            f"Training image number {index} is prepared already (pixel_values), and the teacher's maps are of whole "
            "images: give images, or set teacher_view to 'crop'."
        )
    return sample["image"]


def image_key(image: Image.Image) -> str:
    """A name for an image by its size and pixels."""
    pixels = np.asarray(to_rgb(image))
    size = f"{image.width}x{image.height}".encode()
    return hashlib.blake2b(pixels.tobytes(), digest_size=16, person=size).hexdigest()


def _architecture(network: nn.Module) -> str:
    """What a network computes with its weights, as far as its modules and its config tell: strides, dilations, ..."""
    config: Any = getattr(network, "config", None)
    fields = config.to_dict() if hasattr(config, "to_dict") else {}
    described = {name: value for name, value in fields.items() if name not in ORIGIN_FIELDS}
    modules = re.sub(r" at 0x[0-9a-f]+", "", repr(network))  # of functions
    return f"{type(network).__qualname__} {modules} {json.dumps(described, sort_keys=True, default=str)}"


def _fingerprint(teacher: TeacherAdapter, images: tuple[object, ...]) -> str:
    """A name for what decides on a teacher's maps: weights, architecture, tap, sizes, normalization, classes, and what
    is said of the images that it is given."""
    digest = hashlib.blake2b(digest_size=8)
    settings = (
        teacher.tap,
        teacher.input_size,
        teacher.image_scale,
        teacher.label_match,
        teacher.normalization,
        teacher.flip_channels,
        images,
        _architecture(teacher.model),
    )
    digest.update(repr(settings).encode())
    inputs = {name: value for name, value in teacher.named_buffers() if name.startswith("input_")}  # not in state_dict
    for name, tensor in sorted({**teacher.state_dict(), **inputs}.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
