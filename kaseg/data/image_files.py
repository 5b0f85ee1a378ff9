"""Image files: how they are found, and decoding of images and label masks with errors that name the sample."""

import io
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
from PIL import Image, UnidentifiedImageError

from kaseg.pixels import TURNED, decoded, to_rgb, upright

IMAGE_SUFFIXES = (".bmp", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Other images and videos that people keep beside them, so that they are not left out without a word.
_NOT_READ = (
    *(".arw", ".avif", ".cr2", ".cr3", ".dng", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".nef", ".raw", ".tga"),
    *(".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"),
)
# Where PASCAL Context (Mottaghi et al. 2014) and the Semantic Boundaries Dataset (Hariharan et al. 2011) keep the mask
# in a MATLAB file: a variable, and the field in it if it is a struct.
_MAT_VARIABLES = (("LabelMap", None), ("GTcls", "Segmentation"))
_found_turned: list[str] = []  # the first sample; others would say the same

# What a column of `datasets.Image(decode=False)` holds: {"bytes": ... or None, "path": ... or None}.
EncodedImage = Mapping[str, Any]


def find_images(folder: Path, skip: Path | None = None) -> Iterator[Path]:
    """Walks a folder and the folders in it, sorted by name, for files that end as in `IMAGE_SUFFIXES`.

    Names that start with a dot and the folder `skip` (resolved) are left out; links to folders are not followed. The
    files start with `folder`. Images of other formats and videos are warned about at the end.
    """
    others = []
    for top, subfolders, names in os.walk(folder):
        here = Path(top)
        subfolders[:] = sorted(name for name in subfolders if name[0] != "." and (here / name).resolve() != skip)
        for name in sorted(names):
            if name[0] != "." and name.lower().endswith(IMAGE_SUFFIXES):
                yield here / name
            elif name[0] != "." and name.lower().endswith(_NOT_READ):
                others.append((here / name).relative_to(folder).as_posix())
    if others:
        warnings.warn(
            f"{folder}: {len(others)} files are left out, as their formats are not read in folders: "
            f"{', '.join(others[:5])}{', ...' if len(others) > 5 else ''}. Convert images to PNG or JPEG; name videos "
            "one by one (kaseg predict).",
            stacklevel=2,
        )


def load_images(folder: str | Path) -> datasets.Dataset:
    """Loads all images in a folder and the folders in it, decoded when they are accessed; distillation can learn from
    images without masks.

    Args:
        folder: The folder, searched as by [`~kaseg.data.image_files.find_images`].

    Returns:
        Data with the columns `image` (PIL image, mode "RGB", upright) and `id` (the path within the folder).

    Raises:
        FileNotFoundError: The folder is not there or there is no image in it. On access, a ValueError names an image
            that cannot be decoded.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of images.")
    files = sorted(path.relative_to(folder).as_posix() for path in find_images(folder))
    if not files:
        raise FileNotFoundError(f"{folder}: no images in this folder; looked for {', '.join(IMAGE_SUFFIXES)}.")
    return datasets.Dataset.from_dict({"id": files}).with_transform(partial(_read_images, folder))


def _read_images(folder: Path, batch: Mapping[str, list[str]]) -> dict[str, list[Any]]:
    return {"image": [read_image(folder / name) for name in batch["id"]], "id": list(batch["id"])}


def read_image(source: str | Path | EncodedImage, sample: str | None = None) -> Image.Image:
    """Reads an image and makes it 8-bit RGB and upright ([`~kaseg.pixels.to_rgb`]).

    Args:
        source: A file, or `{"bytes": ..., "path": ...}` as in a column of `datasets.Image(decode=False)`.
        sample: Name of the sample for messages. Default: the file.

    Raises:
        FileNotFoundError: The file is not there.
        ValueError: It cannot be decoded, or its pixels have no known range (floats, more than 16 bits).
    """
    where = _where(source, sample, "image")
    image = _decode(source, where, name=where)
    try:
        return to_rgb(image)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def read_mask(source: str | Path | EncodedImage, sample: str | None = None, colors: bool = False) -> np.ndarray:
    """Reads the raw values of a label mask. Palettes are never looked at: the values are the indices.

    Args:
        source: As in [`read_image`], or a MATLAB file of PASCAL Context or SBD.
        sample: Name of the sample for messages. Default: the file.
        colors: The mask holds colors in place of class indices.

    Returns:
        Integer array (H, W), or uint8 array (H, W, 3) where `colors`.

    Raises:
        FileNotFoundError: The file is not there.
        ValueError: It cannot be decoded, or has colors in place of class indices or the other way round.
    """
    where = _where(source, sample, "label mask")
    path = source.get("path") if isinstance(source, Mapping) else source
    if str(path).lower().endswith(".mat"):
        with _named_errors(where):
            return _read_mat_mask(_read_bytes(source))
    mask = _decode(source, where)
    if colors:
        if mask.mode not in ("RGB", "RGBA"):
            raise ValueError(
                f"{where} has mode {mask.mode!r}, so it holds class indices, but its colors were to be decoded. "
                "Use the label space without the encoding 'color'."
            )
        return np.asarray(mask)[..., :3]
    if mask.mode == "1":
        mask = mask.convert("L").point(lambda value: value // 255)
    values = np.asarray(mask)
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise ValueError(
            f"{where} has mode {mask.mode!r}; a mask needs one class index per pixel (Pillow modes 'L', 'P' or "
            "'I;16'). If its colors are those of the classes' palette, decode them with the encoding 'color': "
            "label_space='NAME:color', 'FILE:color' or LabelSpace.with_colors()."
        )
    return values


def warn_if_only_the_image_is_turned(image: Image.Image, mask: EncodedImage, sample: str) -> None:
    """Warns, once, if `image` was turned as its EXIF orientation says and the file of its mask has no orientation: the
    mask is then right only if it was drawn on the upright image. Where sizes differ, [`check_same_size`] says so."""
    if TURNED not in image.info or _found_turned or str(mask.get("path")).lower().endswith(".mat"):
        return
    with Image.open(io.BytesIO(_read_bytes(mask))) as stored:
        if TURNED in upright(stored).info:
            return
    _found_turned.append(sample)
    warnings.warn(
        f"Sample {sample}: the image was turned as its EXIF orientation says, and its mask has no orientation. Look at "
        "both: if the mask was drawn on the image as it is stored, turn the mask, too, or remove the orientation from "
        "the image. Further samples are not named.",
        stacklevel=3,
    )


def _where(source: str | Path | EncodedImage, sample: str | None, what: str) -> str:
    path = source.get("path") if isinstance(source, Mapping) else str(source)
    if sample is None:
        return f"The {what} {path or '(bytes)'}"
    return f"Sample {sample}: the {what}{f' {path}' if path else ''}"


def _decode(source: str | Path | EncodedImage, where: str, name: str | None = None) -> Image.Image:
    with _named_errors(where):
        image = decoded(io.BytesIO(_read_bytes(source)), name)
    return upright(image)


@contextmanager
def _named_errors(where: str) -> Iterator[None]:
    """Turns what reading inside raises into errors that say where."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{where} does not exist.") from None
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{where} is too large: {error} Cut or shrink it, or, if it is to be trusted, raise Pillow's limit: "
            "PIL.Image.MAX_IMAGE_PIXELS = None (kaseg predict: --max-megapixels)."
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # Pillow reports broken files with all of these, and what it cannot identify by the buffer's address.
        reason = "no image of a format that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"{where} cannot be read: {reason}. Replace it or leave it out.") from error


def _read_bytes(source: str | Path | EncodedImage) -> bytes:
    if not isinstance(source, Mapping):
        return Path(source).read_bytes()
    if source.get("bytes") is not None:
        return source["bytes"]
    if source.get("path") is None:
        raise ValueError("it has neither bytes nor a path")
    path = str(source["path"])
    if "://" in path:  # a file of a streamed Hub dataset
        with fsspec.open(path, "rb") as stream:
            return stream.read()
    return Path(path).read_bytes()


def _read_mat_mask(content: bytes) -> np.ndarray:
    """The mask (H, W) of integers in a MATLAB file."""
    from scipy.io import loadmat  # costs half a second, and few need it

    try:
        variables = loadmat(io.BytesIO(content), struct_as_record=False)
    except Exception as error:  # scipy raises whatever the broken bytes run into
        raise ValueError(f"not a readable MATLAB file ({type(error).__name__}: {error})") from error
    for variable, field in _MAT_VARIABLES:
        if variable in variables:
            found = variables[variable]
            mask = np.asarray(found if field is None else getattr(found.flat[0], field, None))
            if mask.ndim != 2 or mask.dtype.kind not in "iu":
                raise ValueError(f"{variable} holds {mask.dtype} of shape {mask.shape}, not a mask of integers (H, W)")
            return mask
    names = sorted(name for name in variables if not name.startswith("__"))
    raise ValueError(f"it holds {', '.join(names) or 'nothing'}, and neither LabelMap nor GTcls.Segmentation")
