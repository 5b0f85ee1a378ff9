"""Prediction on video files and webcams, through PyAV."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from kaseg.inference.files import plan_outputs, whole_file
from kaseg.inference.ordered_map import ordered_map
from kaseg.inference.overlay import overlay as draw_overlay
from kaseg.inference.predictor import Predictor

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")
MASK_SUFFIX = "_mask.mkv"
OVERLAY_SUFFIX = "_overlay.mp4"
_WEBCAM = "webcam:"
# What FFmpeg calls the cameras of each system, and how a number becomes a name there.
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("dshow", "video={}")}
_CLOCK = Fraction(1, 90_000)  # finer than any frame rate, and what both containers can hold


def is_webcam(source: str) -> bool:
    """Whether `source` is `webcam:NUMBER` (`webcam:NAME` on Windows)."""
    return source.startswith(_WEBCAM)


def is_video(source: str) -> bool:
    """Whether `source` names a webcam, or a file with the suffix of a video."""
    return is_webcam(source) or source.lower().endswith(VIDEO_SUFFIXES)


def frame_count(source: str) -> int | None:
    """How many frames a video file says it has; `None` for webcams and files that do not say."""
    if is_webcam(source):
        return None
    with _open(source) as container:
        stream = _video_stream(container, source)
        if stream.frames:
            return stream.frames
        if container.duration is None or not stream.average_rate:
            return None
        return round(container.duration / _av().time_base * stream.average_rate)


def predict_video(
    predictor: Predictor, source: str, output_dir: str | Path, overlay: bool = True, max_frames: int | None = None
) -> Iterator[np.ndarray]:
    """Segments the frames of a video and writes `<stem>_mask.mkv` and `<stem>_overlay.mp4`.

    The mask is a lossless grey video (FFV1) whose pixel values are class ids; the overlay is H.264. Both have the
    times of the source's frames; sound is left out. Several frames are worked on at once, in order and in bounded
    memory. Files appear whole or not at all, but what a webcam has given is kept when the iterator is closed.

    Args:
        predictor: The model. Its `batch_size` plays no part.
        source: A video file, or `webcam:0` for the first camera (a camera's name on Windows).
        output_dir: Where the results go; made if missing.
        overlay: Also write the overlay.
        max_frames: Stop after so many frames; webcams have no other end.

    Returns:
        An iterator over the masks (H, W), one per frame.

    Raises:
        ImportError: PyAV is not installed.
        FileNotFoundError: There is no such file or camera.
        ValueError: It cannot be decoded, has no video, or a frame differs in size from the first; or the model has
            more than 255 classes.
        OSError: A result cannot be written.
    """
    num_labels = predictor.model.config.num_labels
    if num_labels > 255:
        raise ValueError(f"mask videos hold 255 classes, the model has {num_labels}: segment single frames instead")
    suffixes = (MASK_SUFFIX, OVERLAY_SUFFIX) if overlay else (MASK_SUFFIX,)
    if is_webcam(source):
        stem = Path(output_dir) / source.replace(":", "")
    else:
        ((_, stem),) = plan_outputs(source, output_dir, suffixes)
    files = [stem.with_name(stem.name + suffix) for suffix in suffixes]
    return _predict_video(predictor, source, files, max_frames)


def _predict_video(
    predictor: Predictor, source: str, files: list[Path], max_frames: int | None
) -> Iterator[np.ndarray]:
    with ExitStack() as stack:
        container = stack.enter_context(_open(source))
        stream = _video_stream(container, source)
        stream.thread_type = "AUTO"
        rate = stream.average_rate or Fraction(25)
        count, initializer = stack.enter_context(predictor.workers(max_frames or predictor_limit))
        writers = [_Writer(stack.enter_context(whole_file(file)), file.suffix, rate) for file in files]
        frames = islice(_frames(container, stream, source, rate), max_frames)
        work = partial(_finish, predictor, len(files) > 1)
        try:
            for mask, drawn, time in ordered_map(work, frames, count, initializer):
                for writer, pixels in zip(writers, (mask, drawn), strict=False):
                    writer.write(pixels, time)
                yield mask
        except GeneratorExit:
            if not is_webcam(source):
                raise
        for writer in writers:
            writer.close()
