"""Prediction on video files and webcams, through PyAV."""

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import count, islice
from pathlib import Path
from time import sleep
from types import ModuleType
from typing import Any, Self

import numpy as np
from PIL import Image

from kaseg.inference.files import plan_outputs
from kaseg.inference.ordered_map import ordered_map
from kaseg.inference.overlay import overlay as draw_overlay
from kaseg.inference.predictor import Predictor
from kaseg.writing import whole_file

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")
MASK_SUFFIX = "_mask.mkv"
OVERLAY_SUFFIX = "_overlay.mp4"
_WEBCAM = "webcam:"
# What FFmpeg calls the cameras of each system, and how a number becomes a name there.
_CAMERAS: dict[str, tuple[str, str, dict[str, str]]] = {
    "linux": ("v4l2", "/dev/video{}", {}),
    # FFmpeg's default of 29.97 is refused by most of Apple's cameras.
    "darwin": ("avfoundation", "{}", {"framerate": "30"}),
    "win32": ("dshow", "video={}", {}),
}
# Containers that hold what they show. Playlists and scripts (HLS, DASH, concat) name other files and addresses, which
# whoever sends a server a video must not have it open.
_CONTAINERS = (
    "asf,avi,flv,gif,h264,hevc,ivf,m4v,matroska,mov,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,vc1,webm,yuv4mpegpipe"
)
# Containers that say how long they last in words of their own. Of others FFmpeg estimates it from what is there (the
# last time stamp, the file's size and bit rate), which says nothing about what is not.
_MAY_HIDE_FRAMES = "mov,mp4,m4a,3gp,3g2,mj2"
_SAY_HOW_LONG = (_MAY_HIDE_FRAMES, "matroska,webm", "asf", "flv", "nut", "mxf")
_ROUNDING = 1  # second, by which they may be wrong: many round, and not all know how long the last frame is shown
_SECONDS_BETWEEN_LOOKS = 0.005
_CLOCK = Fraction(1, 60_000)  # a multiple of the usual frame rates; MPEG-4 allows no more than 65,535
_DEFAULT_RATE = Fraction(25)


def is_webcam(source: str) -> bool:
    """Whether `source` is `webcam:NUMBER`, or `webcam:` and what FFmpeg calls the camera: its name on Windows, a file
    such as `/dev/video2` on Linux."""
    return source.startswith(_WEBCAM)


def is_video(source: str) -> bool:
    """Whether `source` names a webcam, or a file with the suffix of a video."""
    return is_webcam(source) or source.lower().endswith(VIDEO_SUFFIXES)


def frame_count(source: str) -> int | None:
    """How many frames a video file says it has; `None` for webcams and files that do not say."""
    if is_webcam(source):
        return None
    with _open(source) as container:
        return _video_stream(container, source).frames or None


def predict_video(
    predictor: Predictor, source: str, output_dir: str | Path, overlay: bool = True, max_frames: int | None = None
) -> Iterator[np.ndarray]:
    """Segments the frames of a video and writes `<stem>_mask.mkv` and `<stem>_overlay.mp4`.

    The mask is a lossless gray video (FFV1) whose pixel values are class ids; the overlay is H.264. Both have the
    times of the source's frames; sound is left out. Several frames are worked on at once, in order and in bounded
    memory. Files appear whole or not at all, but what a webcam has given is kept when the iterator is closed. A file
    that ends before its container says is segmented as far as it goes, with a warning that names it.

    Args:
        predictor: The model. Its `batch_size` plays no part.
        source: A video file, or `webcam:0` for the first camera (a camera's name on Windows).
        output_dir: Where the results go; made if missing.
        overlay: Also write the overlay.
        max_frames: Stop after this many frames; webcams have no other end.

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
        stem = Path(output_dir) / re.sub(r"[^\w.-]", "", source)
    else:
        ((_, stem),) = plan_outputs(source, output_dir, suffixes)
    files = [stem.with_name(stem.name + suffix) for suffix in suffixes]
    return _predict_video(predictor, source, files, max_frames)


def _predict_video(
    predictor: Predictor, source: str, files: list[Path], max_frames: int | None
) -> Iterator[np.ndarray]:
    with ExitStack() as stack:
        container = stack.enter_context(_open(source))
        frames = islice(_frames(container, source), max_frames)
        rate = _video_stream(container, source).average_rate or _DEFAULT_RATE
        threads, initializer = stack.enter_context(predictor.workers(max_frames or sys.maxsize))
        writers = [stack.enter_context(_Writer(stack.enter_context(whole_file(file)), rate)) for file in files]
        work = partial(_segment, predictor, len(files) > 1)
        try:
            for mask, drawn, time in ordered_map(work, frames, threads, initializer):
                writers[0].write(mask, time)
                if drawn is not None:
                    writers[1].write(drawn, time)
                yield mask
        except (GeneratorExit, KeyboardInterrupt):
            if not is_webcam(source):
                raise
        if any(writer.stream is None for writer in writers):
            raise ValueError(f"{source} has no frames")


def _segment(
    predictor: Predictor, with_overlay: bool, frame: tuple[np.ndarray, Fraction]
) -> tuple[np.ndarray, np.ndarray | None, Fraction]:
    pixels, time = frame
    image = Image.fromarray(pixels)
    (mask,) = predictor.predict([image])
    if not with_overlay:
        return mask, None, time
    return mask, np.asarray(draw_overlay(image, mask, predictor.palette, predictor.alpha)), time


def pyav() -> ModuleType:
    """The module of PyAV; an ImportError says how to install it."""
    try:
        import av
    except ImportError as error:
        raise ImportError(f"videos are read and written with PyAV: pip install av ({error})") from error
    return av


def _open(source: str) -> Any:
    av = pyav()
    # Whole, as FFmpeg takes what stands before a colon for a protocol.
    file, layout = os.path.abspath(source) if os.path.exists(source) else source, None
    options = {"format_whitelist": _CONTAINERS}
    if is_webcam(source):
        if sys.platform not in _CAMERAS:
            raise ValueError(f"webcams are known on {', '.join(_CAMERAS)}, not on {sys.platform}")
        layout, name, options = _CAMERAS[sys.platform]
        camera = source.removeprefix(_WEBCAM)
        file = camera if camera.startswith("/") else name.format(camera)
    try:
        return av.open(file, format=layout, options=options)
    except (FileNotFoundError, PermissionError):
        raise
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, av.ArgumentError) and not is_webcam(source):
            reason = f"{reason} (playlists, and other kinds of files than {_CONTAINERS}, are not read)"
        raise ValueError(f"{source} cannot be opened as a video: {reason}") from error


def _video_stream(container: Any, source: str) -> Any:
    if not container.streams.video:
        raise ValueError(f"{source} has no video in it")
    return container.streams.video[0]


def _frames(container: Any, source: str) -> Iterator[tuple[np.ndarray, Fraction]]:
    """Upright RGB frames (H, W, 3) and their times in seconds from the first; a warning at the end if there should be
    more."""
    stream = _video_stream(container, source)
    stream.thread_type = "AUTO"
    rate = stream.average_rate or _DEFAULT_RATE
    first, shape, seen = None, None, _Seen()
    decoded = _decoded(container, stream, seen)
    for index in count():
        try:
            frame = next(decoded, None)
        except BlockingIOError:  # a camera has no frame yet, and a generator that has raised gives no more
            sleep(_SECONDS_BETWEEN_LOOKS)
            decoded = _decoded(container, stream, seen)
            continue
        except pyav().FFmpegError as error:
            raise ValueError(f"{source}: frame {index} cannot be decoded: {error.strerror or error}") from error
        if frame is None:
            _warn_if_cut_off(container, source, index, seen)
            return
        moment = index / Fraction(rate) if frame.pts is None else frame.pts * frame.time_base
        first = moment if first is None else first
        pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
        shape = shape or pixels.shape
        if pixels.shape != shape:
            raise ValueError(f"{source}: frame {index} has (height, width) {pixels.shape[:2]}, the first {shape[:2]}")
        yield np.ascontiguousarray(pixels), moment - first


@dataclass
class _Seen:
    """Until when the last packet that was read of any stream lasts, in seconds."""

    end: Fraction = Fraction(0)


def _decoded(container: Any, stream: Any, seen: _Seen) -> Iterator[Any]:
    """The frames of a stream. The others are read for their times alone: a sound may last longer than the video."""
    for packet in container.demux(*container.streams.video, *container.streams.audio):
        if packet.pts is not None:
            seen.end = max(seen.end, (packet.pts + (packet.duration or 0)) * packet.time_base)
        if packet.stream.index == stream.index:
            yield from packet.decode()


def _warn_if_cut_off(container: Any, source: str, frames: int, seen: _Seen) -> None:
    """Warns if a file held fewer frames than its container says or, where that gives no number, ended too early."""
    stream, kind = _video_stream(container, source), container.format.name
    rate = stream.average_rate or _DEFAULT_RATE
    lasts = Fraction(container.duration or 0, pyav().time_base)
    if stream.frames:
        says = f"has {stream.frames} frames"
        # An edit list, such as that of a video that was trimmed on a phone, hides frames that are counted.
        is_short = frames < stream.frames and (kind != _MAY_HIDE_FRAMES or lasts - seen.end > 1 / (2 * rate))
    else:
        says = f"lasts {float(lasts):.1f} seconds, which would be about {round(lasts * rate)} frames"
        is_short = kind in _SAY_HOW_LONG and lasts - seen.end > max(_ROUNDING, 2 / rate)
    if is_short:
        logger.warning(
            "%s: its container says that it %s, but %d could be decoded: it may be cut off or damaged. The results are "
            "of these frames.",
            source,
            says,
            frames,
        )


class _Writer:
    """A video file: gray frames (H, W) without loss, or RGB frames (H, W, 3)."""

    def __init__(self, file: Path, rate: Fraction) -> None:
        self._container = pyav().open(str(file), "w")
        self._rate = rate
        self.stream: Any = None
        self._last = -1

    def write(self, pixels: np.ndarray, time: Fraction) -> None:
        if pixels.ndim == 3:
            # H.264 halves the colors' resolution and wants even sides.
            pixels = np.pad(pixels, ((0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)), mode="edge")
        if self.stream is None:
            self.stream = self._start(pixels)
        frame = pyav().VideoFrame.from_ndarray(pixels, format="gray" if pixels.ndim == 2 else "rgb24")
        self._last = max(self._last + 1, round(time / _CLOCK))
        frame.pts, frame.time_base = self._last, _CLOCK
        self._container.mux(self.stream.encode(frame))

    def _start(self, pixels: np.ndarray) -> Any:
        if pixels.ndim == 2:
            codec, layout = "ffv1", "gray"
        else:
            codec, layout = "libx264" if "libx264" in pyav().codecs_available else "mpeg4", "yuv420p"
        stream = self._container.add_stream(codec, rate=self._rate)
        stream.height, stream.width = pixels.shape[:2]
        stream.pix_fmt = layout
        stream.codec_context.time_base = _CLOCK
        return stream

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: Any, *_: Any) -> None:
        if error is None and self.stream is not None:
            self._container.mux(self.stream.encode(None))
        self._container.close()
