"""One self-contained HTML page with a table of results and pictures of masks."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Template
from PIL import Image

_TEMPLATE = Template(
    """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .3rem .8rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } tr + tr { border-top: 1px solid #ddd; }
figure { display: inline-block; margin: .2rem; } img { width: 12rem; image-rendering: pixelated; display: block; }
figcaption { font-size: .8rem; color: #555; } .key { display: inline-block; margin-right: 1rem; }
.key i { display: inline-block; width: 1em; height: 1em; margin-right: .3em; vertical-align: -.1em; }
</style>
<h1>{{ title }}</h1>
<table><tr><th>model</th><th>mIoU</th><th>parameters</th><th>GFLOPs at 513x513</th><th>ms per image</th></tr>
{% for row in rows %}<tr><td>{{ row.name }}</td><td>{{ "%.1f" % (100 * row.mean_iou) }}</td>
<td>{{ "%.2f M" % (row.parameters / 1e6) }}</td><td>{{ "%.2f" % row.gflops }}</td>
<td>{{ "%.1f" % row.milliseconds }}</td></tr>
{% endfor %}</table>
<p>{% for name, color in legend %}<span class="key"><i style="background: rgb{{ color }}"></i>{{ name }}</span>
{% endfor %}</p>
{% for picture in pictures %}<div>{% for caption, source in picture %}
<figure><img src="data:image/png;base64,{{ source }}" alt="{{ caption }}">
<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}</div>
{% endfor %}</html>
""",
    autoescape=True,
)


def write_page(
    path: Path,
    title: str,
    rows: Sequence[dict[str, Any]],
    pictures: Sequence[dict[str, Any]],
    names: Sequence[str],
    palette: Sequence[Sequence[int]],
) -> Path:
    """Write the page; everything it shows lies inside the one file.

    Args:
        path (`Path`): Where to write.
        title (`str`): Its heading.
        rows (`Sequence[dict]`): name, mean_iou, parameters, gflops, milliseconds.
        pictures (`Sequence[dict]`): `image` (PIL) and `masks` (caption -> (H, W) train ids).
        names, palette: Classes and their RGB colours.
    """
    colors = np.full((256, 3), 255, dtype=np.uint8)
    colors[: len(palette)] = np.asarray(palette, dtype=np.uint8)
    shown = [
        [("image", _png(picture["image"]))]
        + [(caption, _png(Image.fromarray(colors[np.asarray(mask)]))) for caption, mask in picture["masks"].items()]
        for picture in pictures
    ]
    legend = [(name, tuple(int(value) for value in color)) for name, color in zip(names, palette, strict=True)]
    path.write_text(_TEMPLATE.render(title=title, rows=rows, pictures=shown, legend=legend))
    return path


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
