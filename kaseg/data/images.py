"""Images without masks, which distillation can learn from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

from kaseg.data.image_files import IMAGE_SUFFIXES, find_images, read_image


def load_images(folder: str | Path) -> datasets.Dataset:
    """All images in a folder and the folders in it, decoded when they are accessed.

    Args:
        folder: The folder, searched as by [`~kaseg.data.image_files.find_images`].

    Returns:
        Data with the columns `image` (PIL picture, mode "RGB", upright) and `id` (the path within the folder).

    Raises:
        FileNotFoundError: If the folder is not there or there is no image in it. On access, a ValueError names an image
            that cannot be decoded.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of images.")
    files = sorted(path.relative_to(folder).as_posix() for path in find_images(folder))
    if not files:
        raise FileNotFoundError(f"{folder}: no images in this folder; looked for {', '.join(IMAGE_SUFFIXES)}.")
    return datasets.Dataset.from_dict({"id": files}).with_transform(_ReadImages(folder))


class _ReadImages:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, batch: Mapping[str, list[str]]) -> dict[str, list[Any]]:
        return {"image": [read_image(self.folder / name) for name in batch["id"]], "id": list(batch["id"])}
