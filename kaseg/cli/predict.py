"""`kaseg predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .on_error import OnError


def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE_OR_FOLDER...", help="Pictures and folders of them.")],
    model: Annotated[str, typer.Option(help="Hub id, folder or shipped checkpoint (see kaseg list).")],
    output: Annotated[Path, typer.Option(help="Folder for masks and overlays; made if missing.")],
    overlay: Annotated[bool, typer.Option(help="Also write picture, colours and legend.")] = True,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Weight of the colours in overlays.")] = 0.5,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures of one size that share a batch.")] = 1,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; a GPU if there is one.")] = None,
    on_error: Annotated[OnError, typer.Option(help="What to do about unreadable pictures.")] = OnError.RAISE,
) -> None:
    """Segment pictures: <name>_mask.png, whose pixel values are class ids, and <name>_overlay.png for each."""
    from ..inference import Predictor, iter_images
    from .models import load_model
    from .output import console, progress_bar

    count = sum(1 for _ in iter_images(images, skip=output))
    predictor = Predictor(*load_model(model, device), batch_size=batch_size, alpha=alpha)
    skipped = 0
    with progress_bar() as progress:
        task = progress.add_task("Segmenting", total=count)
        for prediction in predictor.predict_files(images, output, overlay=overlay, on_error=on_error.value):
            skipped += prediction.error is not None
            progress.advance(task)
    console.print(f"{count - skipped} of {count} pictures segmented: {output}", soft_wrap=True, highlight=False)
    if skipped == count:
        raise typer.Exit(1)
