"""Picture files: how they are found, and decoding of pictures and label masks with errors that name the sample."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import numpy as np
from PIL import Image, UnidentifiedImageError

from kaseg.data.mat_files import read_mat_mask
from kaseg.pixels import to_rgb, upright

IMAGE_SUFFIXES = (".bmp", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

T = TypeVar("T")

# What a column of `datasets.Image(decode=False)` holds: {"bytes": ... or None, "path": ... or None}.
EncodedImage = Mapping[str, Any]


def find_images(folder: Path, skip: Path | None = None) -> Iterator[Path]:
    """Walks a folder and the folders in it, sorted by name, for files that end as in `IMAGE_SUFFIXES`.

    Files and folders whose names start with a dot are left out; links to folders are not followed.

    Args:
        folder: The folder.
        skip: A folder to leave out, resolved.

    Returns:
        An iterator over the files, each starting with `folder`.
    """
    for top, subfolders, names in os.walk(folder):
        here = Path(top)
        subfolders[:] = sorted(name for name in subfolders if name[0] != "." and (here / name).resolve() != skip)
        for name in sorted(names):
            if name[0] != "." and name.lower().endswith(IMAGE_SUFFIXES):
                yield here / name


def read_image(source: str | Path | EncodedImage, sample: str | None = None) -> Image.Image:
    """Reads a picture as 8-bit RGB, upright.

    Made RGB as by [`~kaseg.pixels.to_rgb`].

    Args:
        source: A file, or `{"bytes": ..., "path": ...}` as in a column of `datasets.Image(decode=False)`.
        sample: Name of the sample for messages. Default: the file.

    Returns:
        A picture of mode "RGB".

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it cannot be decoded, or if its pixels have no known range (floats, more than 16 bits).
    """
    where = _where(source, sample, "image")
    image = _decode(source, where)
    try:
        return to_rgb(image)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def read_mask(source: str | Path | EncodedImage, sample: str | None = None, colors: bool = False) -> np.ndarray:
    """Reads the raw values of a label mask. Palettes are never looked at: the values are the indices.

    Args:
        source: A picture file, a MATLAB file (see [`~kaseg.data.mat_files.read_mat_mask`]), or `{"bytes": ..., "path":
            ...}` as in a column of `datasets.Image(decode=False)`.
        sample: Name of the sample for messages. Default: the file.
        colors: The mask holds colours in place of class indices.

    Returns:
        Integer array (H, W), or uint8 array (H, W, 3) where `colors`.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it cannot be decoded, or has colours in place of class indices or the other way round.
    """
    where = _where(source, sample, "label mask")
    path = source.get("path") if isinstance(source, Mapping) else source
    if str(path).lower().endswith(".mat"):
        return _guarded(lambda: read_mat_mask(_read_bytes(source)), where)
    mask = _decode(source, where)
    if colors:
        if mask.mode not in ("RGB", "RGBA"):
            raise ValueError(
                f"{where} has mode {mask.mode!r}, so it holds class indices, but its colours were to be decoded. "
                "Use the label space without the encoding 'color'."
            )
        return np.asarray(mask)[..., :3]
    if mask.mode == "1":
        mask = mask.convert("L").point(lambda value: value // 255)
    values = np.asarray(mask)
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise ValueError(
            f"{where} has mode {mask.mode!r}; a mask needs one class index per pixel (Pillow modes 'L', 'P' or "
            "'I;16'). If its colours are those of the classes' palette, decode them with the encoding 'color': "
            "label_space='NAME:color', 'FILE:color' or LabelSpace.with_colors()."
        )
    return values


def _where(source: str | Path | EncodedImage, sample: str | None, what: str) -> str:
    path = source.get("path") if isinstance(source, Mapping) else str(source)
    if sample is None:
        return f"The {what} {path or '(bytes)'}"
    return f"Sample {sample}: the {what} {path}" if path else f"Sample {sample}: the {what}"


def _decode(source: str | Path | EncodedImage, where: str) -> Image.Image:
    def decode() -> Image.Image:
        image = Image.open(io.BytesIO(_read_bytes(source)))
        image.load()
        return image

    return upright(_guarded(decode, where))


def _guarded(read: Callable[[], T], where: str) -> T:
    """What `read` returns, with its errors turned into ones that say where."""
    try:
        return read()
    except FileNotFoundError:
        raise FileNotFoundError(f"{where} does not exist.") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        # Pillow reports broken files with all of these, and what it cannot identify by the buffer's address.
        reason = "no picture of a format that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        if isinstance(error, Image.DecompressionBombError):
            raise ValueError(
                f"{where} is too large: {error} Cut or shrink it, or, if it is to be trusted, raise Pillow's limit: "
                "PIL.Image.MAX_IMAGE_PIXELS = None (kaseg predict: --max-megapixels)."
            ) from error
        raise ValueError(f"{where} cannot be read: {reason}. Replace it or leave it out.") from error


def _read_bytes(source: str | Path | EncodedImage) -> bytes:
    if not isinstance(source, Mapping):
        return Path(source).read_bytes()
    if source.get("bytes") is not None:
        return source["bytes"]
    if source.get("path") is None:
        raise ValueError("it has neither bytes nor a path")
    path = str(source["path"])
    if "://" in path:  # a file of a streamed Hub data set
        with fsspec.open(path, "rb") as stream:
            return stream.read()
    return Path(path).read_bytes()
