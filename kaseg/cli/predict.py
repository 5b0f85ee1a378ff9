"""`kaseg predict`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..checkpoints import DEFAULT_MODEL
from . import common

if TYPE_CHECKING:
    from ..inference import Predictor


def predict(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Images, folders of them, videos, webcam:0.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for masks and overlays; made if missing.")],
    model: Annotated[
        str, typer.Option(help="Hub id, folder, shipped checkpoint (see kaseg list), or an export.")
    ] = DEFAULT_MODEL,
    overlay: Annotated[bool, typer.Option(help="Also write image, colors and legend.")] = True,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Weight of the colors in overlays.")] = 0.5,
    batch_size: common.BatchSize = 1,
    device: common.Device = None,
    on_error: Annotated[
        common.OnError, typer.Option(help="What to do about unreadable images.")
    ] = common.OnError.RAISE,
    max_megapixels: Annotated[
        int, typer.Option(min=1, help="Refuse larger images: a small file can hold one that fills the memory.")
    ] = 178,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Stop a video or webcam after N frames.")] = None,
) -> None:
    """Segment images: <name>_mask.png, whose pixel values are class ids, and <name>_overlay.jpg for each.

    Of a video or webcam (webcam:0; Ctrl-C ends it): <name>_mask.mkv, whose pixel values are class ids, and
    <name>_overlay.mp4.
    """
    from PIL import Image

    from ..inference import Predictor, deployed
    from ..inference.video import is_video, is_webcam, pyav
    from .models import load_model

    # Whatever can be said before the model is loaded and the first of many sources is done.
    images = [source for source in sources if not is_video(source)]
    videos = [source for source in sources if is_video(source)]
    if len({Path(source).stem.casefold() for source in videos}) < len(videos):
        raise ValueError("the results of two videos would have one name: segment them in two calls, to two folders")
    if max_frames is not None and not videos:
        raise ValueError("--max-frames would change nothing: there is no video and no webcam.")
    if alpha != 0.5 and not overlay:
        raise ValueError("--alpha would change nothing with --no-overlay: leave one of them out.")
    for source in sources:
        if not is_webcam(source) and not Path(source).exists():
            raise FileNotFoundError(f"{source}: no such file or folder")
    if videos:
        pyav()
    Image.MAX_IMAGE_PIXELS = max_megapixels * 500_000  # Pillow warns above this and refuses above its double
    network, processor = load_model(model, device)
    predictor = Predictor(deployed(network), processor, batch_size=batch_size, alpha=alpha)
    if images:
        _predict_images(predictor, images, output, overlay, on_error)
    for source in videos:
        _predict_video(predictor, source, output, overlay, max_frames)


def _predict_images(
    predictor: Predictor, sources: list[str], output: Path, overlay: bool, on_error: common.OnError
) -> None:
    from ..inference import iter_images
    from ..progress import progress_bar
    from .output import console

    count = sum(1 for _ in iter_images(sources, skip=output))
    skipped = 0
    start = time.perf_counter()
    with progress_bar("Segmenting", count, "images") as bar:
        for prediction in predictor.predict_files(sources, output, overlay=overlay, on_error=on_error.value):
            skipped += prediction.error is not None
            bar.update()
    rate = f"{(count - skipped) / (time.perf_counter() - start):.1f} per second"
    console.print(f"{count - skipped} of {count} images segmented: {output} ({rate})", soft_wrap=True)
    if skipped == count:
        raise typer.Exit(1)


def _predict_video(predictor: Predictor, source: str, output: Path, overlay: bool, max_frames: int | None) -> None:
    from ..inference.video import frame_count, predict_video
    from ..progress import progress_bar
    from .output import console

    known = [number for number in (frame_count(source), max_frames) if number is not None]
    done = 0
    start = time.perf_counter()
    with progress_bar(f"Segmenting {source}", min(known, default=None), "frames") as bar:
        for _ in predict_video(predictor, source, output, overlay=overlay, max_frames=max_frames):
            done += 1
            bar.update()
    rate = f"{done / (time.perf_counter() - start):.1f} per second"
    console.print(f"{done} frames of {source} segmented: {output} ({rate})", soft_wrap=True)
