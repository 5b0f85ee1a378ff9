"""A page for trying models in a browser, on Gradio: photos, the webcam, videos, two models side by side."""

import atexit
import html
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from kaseg.data import SCENES
from kaseg.data.scenes import render_scene
from kaseg.inference.overlay import add_legend, class_fractions, colorize, overlay
from kaseg.inference.predictor import Predictor
from kaseg.inference.video import predict_video
from kaseg.pixels import to_rgb

if TYPE_CHECKING:
    from gradio import Blocks

MAX_FILE_SIZE = "50mb"
MAX_MEGAPIXELS = 64  # a small file can hold an image that fills the memory
KEPT_SECONDS = 3600  # of what visitors sent and were shown
MAX_FRAMES = 300
_EXAMPLES = (3, 11, 27)
# Gradio's columns wrap on phones; what is left is to keep pictures inside the screen.
_STYLE = ".gradio-container {max-width: 1100px !important}"


@dataclass(frozen=True)
class Segmentation:
    """One image and what a model made of it."""

    image: Image.Image  # upright RGB
    mask: np.ndarray  # class ids (H, W)
    milliseconds: float  # time of the model with preparation and resizing


def segment(predictor: Predictor, image: Image.Image) -> Segmentation:
    """Run a model on an image of any mode and size."""
    image = to_rgb(image)
    start = time.perf_counter()
    mask = predictor.predict([image])[0]
    return Segmentation(image, mask, 1000 * (time.perf_counter() - start))


def draw(predictor: Predictor, found: Segmentation, shown: Sequence[str], opacity: float) -> Image.Image:
    """The image with the colors of the classes in `shown` over it; other classes leave it as it is."""
    names = predictor.model.config.id2label
    visible = np.isin(found.mask, [index for index, name in names.items() if name in set(shown)])
    colored = overlay(found.image, found.mask, predictor.palette, opacity)
    return Image.composite(colored, found.image, Image.fromarray(visible))


def shares(predictor: Predictor, found: Segmentation) -> dict[str, float]:
    """Class name -> its share of the image in 0..1, the largest first."""
    names = predictor.model.config.id2label
    return {names[index]: share for index, share in class_fractions(found.mask).items()}


def legend(predictor: Predictor, found: Segmentation) -> str:
    """The colors of the classes in the mask, as HTML."""
    swatch = '<span style="display:inline-block;width:1em;height:1em;border:1px solid #8888;background:rgb({})"></span>'
    colors = (",".join(str(int(value)) for value in predictor.palette[index]) for index in class_fractions(found.mask))
    pairs = zip(colors, shares(predictor, found), strict=True)
    return " &nbsp; ".join(f"{swatch.format(color)} {html.escape(str(name))}" for color, name in pairs)


def save_downloads(predictor: Predictor, found: Segmentation, drawn: Image.Image, folder: Path) -> tuple[str, str]:
    """Write mask (palette PNG, pixel values are class ids) and overlay with legend; returns both paths."""
    folder = _new_folder(folder)
    mask, picture = folder / "mask.png", folder / "overlay.png"
    colorize(found.mask, predictor.palette).save(mask)
    fractions = class_fractions(found.mask)
    add_legend(drawn, fractions, predictor.model.config.id2label, predictor.palette).save(picture)
    return str(mask), str(picture)


class _Page:
    """What the page's events do; Gradio components are named as in [`build`]."""

    def __init__(self, predictors: Mapping[str, Predictor], folder: Path) -> None:
        self.predictors, self.folder = predictors, folder

    def segment(self, image: Image.Image | None, model: str, opacity: float) -> tuple[Any, ...]:
        """A new image or model: segment it, and show all of its classes."""
        import gradio as gr

        if image is None:
            return None, gr.CheckboxGroup(choices=[], value=[]), "", None, "", None, None
        found = segment(self.predictors[model], image)
        names = shares(self.predictors[model], found)
        choices = [(f"{name} {100 * share:.1f} %", name) for name, share in names.items()]
        drawn, mask, picture = self._draw(found, model, list(names), opacity)
        width, height = found.image.size
        speed = f"{found.milliseconds:.0f} ms for {width}x{height} pixels, with `{model}`"
        boxes = gr.CheckboxGroup(choices=choices, value=list(names))
        return found, boxes, legend(self.predictors[model], found), drawn, speed, mask, picture

    def redraw(self, found: Segmentation | None, model: str, shown: list[str], opacity: float) -> tuple[Any, ...]:
        """Other classes or another opacity: nothing is segmented anew."""
        return (None, None, None) if found is None else self._draw(found, model, shown, opacity)

    def _draw(self, found: Segmentation, model: str, shown: list[str], opacity: float) -> tuple[Any, ...]:
        drawn = draw(self.predictors[model], found, shown, opacity)
        return ((found.image, drawn), *save_downloads(self.predictors[model], found, drawn, self.folder))

    def compare(self, image: Image.Image | None, first: str, second: str, opacity: float) -> tuple[Any, str]:
        """Two models on one image."""
        if image is None:
            return None, ""
        drawn, lines = [], []
        for model in (first, second):
            predictor = self.predictors[model]
            found = segment(predictor, image)
            drawn.append(draw(predictor, found, list(shares(predictor, found)), opacity))
            lines.append(f"`{model}`: {found.milliseconds:.0f} ms")
        return tuple(drawn), "left " + ", right ".join(lines)

    def video(self, file: str | None, model: str) -> tuple[str | None, str]:
        """At most `MAX_FRAMES` frames of a clip."""
        if file is None:
            return None, ""
        start, frames = time.perf_counter(), 0
        folder = _new_folder(self.folder)
        for _ in predict_video(self.predictors[model], file, folder, max_frames=MAX_FRAMES):
            frames += 1
        (written,) = folder.glob("*_overlay.mp4")
        return str(written), f"{frames} frames, {frames / (time.perf_counter() - start):.1f} per second"


def build(predictors: Mapping[str, Predictor]) -> "Blocks":
    """The page for predictors by name (of [`~kaseg.inference.deployed`] models for speed), which [`launch`] serves; the
    first one is chosen at the start.

    Raises:
        ImportError: Gradio is not installed.
        ValueError: there is no model.
    """
    try:
        import gradio as gr
    except ImportError as error:
        raise ImportError("The demo needs Gradio: pip install 'kaseg[demo]' (in a clone '.[demo]').") from error
    if not predictors:
        raise ValueError("The demo needs at least one model.")
    names = list(predictors)
    # Gradio serves files from its own cache alone, where it puts copies of what is written here. Nothing of a visitor
    # stays on the disk.
    folder = Path(tempfile.mkdtemp(prefix="kaseg-demo-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    page = _Page(predictors, folder)
    examples = _examples(predictors[names[0]])
    with gr.Blocks(title="kaseg", analytics_enabled=False, delete_cache=(KEPT_SECONDS // 6, KEPT_SECONDS)) as blocks:
        gr.Markdown("# kaseg\nSmall, fast semantic segmentation. Drop a photo, or take one.")
        found = gr.State()
        opacity = gr.Slider(0, 1, value=0.5, step=0.05, label="Opacity", render=False)
        with gr.Tab("Image"), gr.Row():
            with gr.Column():
                image = gr.Image(type="pil", sources=["upload", "webcam", "clipboard"], label="Image", elem_id="image")
                model = gr.Dropdown(names, value=names[0], label="Model", elem_id="model")
                opacity.render()
                if examples:
                    gr.Examples(examples, image, label="Synthetic street scenes")
            with gr.Column():
                result = gr.ImageSlider(label="Image and mask", type="pil", interactive=False, elem_id="result")
                colors = gr.HTML(elem_id="legend")
                classes = gr.CheckboxGroup([], label="Classes and their share", elem_id="classes")
                speed = gr.Markdown(elem_id="speed")
                with gr.Row():
                    mask = gr.DownloadButton("Mask (PNG of class ids)", size="sm")
                    picture = gr.DownloadButton("Overlay with legend", size="sm")
        with gr.Tab("Two models"), gr.Row():
            with gr.Column():
                shared = gr.Image(type="pil", sources=["upload", "webcam", "clipboard"], label="Image")
                first = gr.Dropdown(names, value=names[0], label="Left")
                second = gr.Dropdown(names, value=names[-1], label="Right")
                if examples:
                    gr.Examples(examples, shared, label="Synthetic street scenes")
            with gr.Column():
                both = gr.ImageSlider(label="Left and right", type="pil", interactive=False)
                speeds = gr.Markdown()
        with gr.Tab("Video"), gr.Row():
            with gr.Column():
                clip = gr.Video(sources=["upload", "webcam"], label=f"Clip (the first {MAX_FRAMES} frames)")
                video_model = gr.Dropdown(names, value=names[0], label="Model")
                start = gr.Button("Segment", variant="primary")
            with gr.Column():
                segmented = gr.Video(label="Overlay", interactive=False)
                rate = gr.Markdown()
        shown = [result, mask, picture]
        for event in (image.change, model.change):
            event(page.segment, [image, model, opacity], [found, classes, colors, result, speed, mask, picture])
        for event in (classes.input, opacity.release):
            event(page.redraw, [found, model, classes, opacity], shown)
        for event in (shared.change, first.change, second.change):
            event(page.compare, [shared, first, second, opacity], [both, speeds])
        start.click(page.video, [clip, video_model], [segmented, rate])
    return blocks


def launch(
    blocks: "Blocks", host: str = "127.0.0.1", port: int | None = None, share: bool = False, block: bool = True
) -> str:
    """Serve the page, on this machine alone unless told otherwise; uploads are limited to 50 MB and 64 megapixels, and
    no file but what the page itself has written is served. Files are removed after an hour, and at the end. The limit
    of pixels is Pillow's, so it holds for the whole process. Returns the page's address (with `block`, once it is
    stopped by Ctrl-C).
    """
    Image.MAX_IMAGE_PIXELS = MAX_MEGAPIXELS * 500_000  # Pillow warns above this and refuses above its double
    _, address, public = blocks.launch(
        server_name=host,
        server_port=port,
        share=share,
        prevent_thread_lock=not block,
        quiet=True,
        max_file_size=MAX_FILE_SIZE,
        allowed_paths=[],
        footer_links=[],
        css=_STYLE,
        ssr_mode=False,
    )
    return public or address


def _new_folder(root: Path) -> Path:
    """A new folder below `root`, from which those of an hour ago are removed."""
    for old in root.iterdir():
        with suppress(OSError):
            if old.is_dir() and time.time() - old.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(old)
    return Path(tempfile.mkdtemp(dir=root))


def _examples(predictor: Predictor) -> list[list[Image.Image]]:
    """Street scenes, for a model that knows more of them than one class."""
    if len({*predictor.model.config.id2label.values()} & {*SCENES.id2label.values()}) < 2:
        return []
    return [[Image.fromarray(render_scene(0, index, 240, 320)[0])] for index in _EXAMPLES]
