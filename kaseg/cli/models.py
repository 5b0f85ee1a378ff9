"""Loading of checkpoints for the commands that use them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from ..checkpoints import checkpoint_path, is_shipped
from ..image_processing_kaseg import KASegImageProcessor

if TYPE_CHECKING:
    from ..modeling_kaseg import KASegModel


def load_model(name: str, device: str | None) -> tuple[KASegModel, KASegImageProcessor]:
    """A checkpoint's model, on `device`, and its image processor.

    Args:
        name: Hub id, folder or shipped checkpoint.
        device: Where to put the model; by default the GPU, if there is one.

    Raises:
        OSError: there is no such checkpoint.
        ValueError: it is not a kaseg model, or the device cannot be used.
    """
    from ..modeling_kaseg import KASegModel

    source = str(checkpoint_path(name)) if is_shipped(name) else name
    if not Path(source).is_dir() and (Path(source).is_absolute() or source.startswith(".") or source.count("/") > 1):
        raise FileNotFoundError(f"{source}: no such folder. Give a folder, a Hub id or one of those of kaseg list.")
    model = KASegModel.from_pretrained(source)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"The device {device!r} cannot be used: {error}") from error
    return model, _load_processor(source)


def _load_processor(source: str) -> KASegImageProcessor:
    try:
        return KASegImageProcessor.from_pretrained(source)
    except OSError:
        notice = f"{source} has no image processor; the default one is used (ImageNet mean and std, no resizing)."
        Console(stderr=True).print(notice, style="yellow", soft_wrap=True)
        return KASegImageProcessor()
