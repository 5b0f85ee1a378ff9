"""Files of a prediction run: which images to read, what to call the results, and how to write them safely."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from kaseg.data.image_files import IMAGE_SUFFIXES, find_images, read_image
from kaseg.writing import whole_file

PathLike = str | os.PathLike[str]


def iter_images(paths: PathLike | Iterable[PathLike], skip: PathLike | None = None) -> Iterator[Path]:
    """Finds the images in files and folders, every file once, in the order given.

    Args:
        paths: A file or folder, or several. A file is taken whatever its name; a folder is searched as by
            [`~kaseg.data.image_files.find_images`].
        skip: A folder to leave out of the search, usually the output folder.

    Raises:
        FileNotFoundError: At once if a path does not exist or none was given; when its turn comes, if a folder holds
            no image.
    """
    return (path for path, _ in _walk(_existing(paths), skip))


def plan_outputs(
    paths: PathLike | Iterable[PathLike], output_dir: PathLike, suffixes: Iterable[str]
) -> list[tuple[Path, Path]]:
    """Decides for every image what its results are called, so that no two images share a name.

    A result is called `output_dir / <folders below the folder that was given> / <stem>` plus one of `suffixes`. Where
    two images would share that name (`a/x.jpg` and `b/x.jpg`), the folders below the deepest folder common to all
    images are kept instead; where that is not enough (`x.jpg` beside `x.png`), also the whole file name. Names that
    differ only in case count as shared, because some file systems take them for one.

    Returns:
        For every image in `paths`, other than those in `output_dir`, its path and that of its results without suffix.

    Raises:
        FileNotFoundError: As for [`iter_images`].
        ValueError: The output folder is one of the folders to search, or a result would overwrite an image.
    """
    given = _existing(paths)
    output_dir = Path(output_dir)
    for path in given:
        if path.is_dir() and path.resolve() == output_dir.resolve():
            raise ValueError(f"the output folder {output_dir} is also an input folder: choose another output folder")
    found = list(_walk(given, output_dir))
    names = [name.with_suffix("") for _, name in found]
    if _has_doubles(names):
        absolute = [Path(os.path.abspath(path)) for path, _ in found]
        common = os.path.commonpath([path.parent for path in absolute])
        whole = [path.relative_to(common) for path in absolute]
        names = [name.with_suffix("") for name in whole]
        if _has_doubles(names):
            names = whole
    planned = [(image, output_dir / name) for (image, _), name in zip(found, names, strict=True)]
    inputs = {image.resolve() for image, _ in planned}
    for result in (output.with_name(output.name + suffix) for _, output in planned for suffix in suffixes):
        if result.resolve() in inputs:
            raise ValueError(f"the result {result} would overwrite an image: choose another output folder")
    return planned


def write_image(image: Image.Image, path: Path, **options: Any) -> None:
    """Writes an image wholly or not at all; the file's suffix decides the format, whose options Pillow's writer takes.

    Raises:
        OSError: It cannot be written (disk full, no permission); the message names the file.
    """
    with whole_file(path) as temporary:
        image.save(temporary, format=Image.registered_extensions()[path.suffix], **options)


def _existing(paths: PathLike | Iterable[PathLike]) -> list[Path]:
    given = [Path(paths)] if isinstance(paths, (str, os.PathLike)) else [Path(path) for path in paths]
    if not given:
        raise FileNotFoundError("no images: neither a file nor a folder was given")
    for path in given:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder")
    return given


def _walk(given: list[Path], skip: PathLike | None) -> Iterator[tuple[Path, Path]]:
    """Yields every image once, with its path below the folder it was found through (a file's own: its name)."""
    skipped = None if skip is None else Path(skip).resolve()
    seen = set()
    for top in given:
        found = find_images(top, skipped) if top.is_dir() else iter([top])
        empty = True
        for path in found:
            empty = False
            if (real := path.resolve()) not in seen:
                seen.add(real)
                yield path, path.relative_to(top) if path != top else Path(path.name)
        if empty:
            raise FileNotFoundError(f"{top}: no images in this folder; looked for {', '.join(IMAGE_SUFFIXES)}")


def _has_doubles(names: list[Path]) -> bool:
    return len({str(name).casefold() for name in names}) < len(names)


__all__ = ["IMAGE_SUFFIXES", "iter_images", "plan_outputs", "read_image", "write_image"]
