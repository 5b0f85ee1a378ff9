"""What a teacher makes of whole images, computed once, kept on disk and cut out for each crop of the student."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from kaseg.data import EvalTransform
from kaseg.data.transforms import View
from kaseg.distillation.teachers.adapter import TeacherAdapter
from kaseg.image_processing_kaseg import KASegImageProcessor, to_rgb
from kaseg.pixels import Normalization
from kaseg.writing import whole_file

# Whole positions of all encoders but those of stride 32, so that maps span the padded image.
PADDED_TO = 16
# An image that is reduced by more than this is read at every so many positions only.
MAX_SAMPLES_PER_SIDE = 4


class TeacherMaps:
    """Maps of a frozen teacher on whole images, one file per image and map, and their parts on the student's crops.

    A teacher that sees a crop of the student knows less than one that sees the whole image: on crops of 192 pixels of
    PASCAL VOC photographs at 0.35 to 0.8 of their size, a DeepLab has 63 mIoU where it has 80 on whole images
    (tests/benchmarks/teacher_view.py). Here it sees
    every image once, whole and at its own size, so a step of the student costs no pass of the teacher (our choice;
    Beyer et al. 2021, arXiv 2106.05237, call such targets a "fixed teacher" and find them worse in classification;
    there, crops are as large as what the teacher was trained on).

    Files are named by what is in them: the folder by teacher, tap, classes and image scale, the file by the pixels. So
    runs may share a folder, samples may move from one dataset to another, and a changed image or teacher is computed
    anew.

    Args:
        folder (`str` or `Path`): Where maps are kept. Half of a float32 map each: about 0.4 MB for an image of 500x375
            pixels and 256 channels at stride 16, 16 times as much at stride 4.
        teacher ([`TeacherAdapter`]): Whose maps; must know the normalization of the images it is given.
        stride (`int`): Stride of the teacher's maps.
        crop_size (`(int, int)`): Height and width of the student's crops.
        processor ([`KASegImageProcessor`]): Gives the normalization of the images that the teacher is given.
        sources (`Iterable[str]`): What is kept, of `"features"` and `"logits"`.
    """

    def __init__(
        self,
        folder: str | Path,
        teacher: TeacherAdapter,
        stride: int,
        crop_size: tuple[int, int],
        processor: KASegImageProcessor,
        sources: Iterable[str],
    ) -> None:
        self.sources = tuple(sorted(sources))
        self.folder = Path(folder) / _fingerprint(teacher)
        # What the teacher's map of a crop would measure, so that all that follows is as if it had seen the crop.
        self.grid = (math.ceil(crop_size[0] / stride), math.ceil(crop_size[1] / stride))
        self.crop_size = crop_size
        normalization = Normalization.of_processor(processor)
        self.transform = EvalTransform(normalization.mean, normalization.std, size_divisor=PADDED_TO)

    def has(self, image: Image.Image) -> bool:
        """Whether the maps of an image are there."""
        return all(self._file(source, image_key(image)).is_file() for source in self.sources)

    @torch.no_grad()
    def add(self, image: Image.Image, teacher: Any, device: torch.device | str = "cpu") -> None:
        """Compute and keep the maps of an image, if they are not there.

        Raises:
            ValueError: the teacher's map has a value that is not finite, or that float16 cannot hold.
            OSError: the file cannot be written.
        """
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
                save_file({source: kept}, temporary)

    def crop(self, image: Image.Image, view: View) -> dict[str, torch.Tensor]:
        """The teacher's maps of a crop of the image.

        Args:
            image: The whole image, as the dataset gives it.
            view: Where the crop lies, as [`~kaseg.data.TrainTransform.with_view`] gives it.

        Returns:
            `teacher_features` (c, h, w) and `teacher_logits` (C, h, w), as far as they are kept, in float32 and of the
            size of the teacher's map of an image of `crop_size`. Beyond the image the map's edge goes on.

        Raises:
            FileNotFoundError: the maps of this image are not there.
            ValueError: the file is damaged.
        """
        image = to_rgb(image)
        key = image_key(image)
        return {f"teacher_{source}": self._cut(self._read(source, key), image.size, view) for source in self.sources}

    def _cut(self, whole: torch.Tensor, size: tuple[int, int], view: View) -> torch.Tensor:
        (x0, y0, dx, dy), (height, width) = view, self.grid
        padded = tuple(math.ceil(side / PADDED_TO) * PADDED_TO for side in size)  # width, height
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
            raise ValueError(f"{file} is damaged ({error}): delete it, and it is computed anew.") from error


def image_key(image: Image.Image) -> str:
    """A name for an image by its size and pixels."""
    pixels = np.asarray(to_rgb(image))
    size = f"{image.width}x{image.height}".encode()
    return hashlib.blake2b(pixels.tobytes(), digest_size=16, person=size).hexdigest()


def _fingerprint(teacher: TeacherAdapter) -> str:
    """A name for what decides on a teacher's maps: weights, tap, sizes, normalization, classes."""
    digest = hashlib.blake2b(digest_size=8)
    settings: tuple[object, ...] = (
        teacher.tap,
        teacher.input_size,
        teacher.image_scale,
        teacher.label_match,
        teacher.normalization,
    )
    if teacher.output_stride is not None:  # with the same weights
        settings = (*settings, teacher.output_stride)
    digest.update(repr(settings).encode())
    for name, tensor in sorted(teacher.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
