"""One self-contained HTML page with tables of results, figures and masks."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Template
from matplotlib.figure import Figure
from PIL import Image

_TEMPLATE = Template(
    """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
td, th { padding: .3rem .8rem; text-align: right; }
th:nth-child(-n+{{ words }}), td:nth-child(-n+{{ words }}) { text-align: left; }
tr + tr { border-top: 1px solid #8886; }
figure { display: inline-block; margin: .2rem; } figcaption { font-size: .8rem; opacity: .8; }
pre { overflow-x: auto; padding: .8rem; border: 1px solid #8886; border-radius: .4rem; }
.mask { width: min(12rem, 44vw); image-rendering: pixelated; display: block; }
.plot { max-width: 100%; background: #fff; }
.key { display: inline-block; margin-right: 1rem; }
.key i { display: inline-block; width: 1em; height: 1em; margin-right: .3em; vertical-align: -.1em; }
</style>
<h1>{{ title }}</h1>
{% for text in lead %}<p>{{ text }}</p>
{% endfor %}<table><tr>{% for name in header %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% for caption, source in figures %}
<figure><img src="data:image/png;base64,{{ source }}" class="plot" alt="{{ caption }}">
<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
<p>{% for name, color in legend %}<span class="key"><i style="background: rgb{{ color }}"></i>{{ name }}</span>
{% endfor %}</p>
{% for row in images %}<div>{% for caption, source in row %}
<figure><img src="data:image/png;base64,{{ source }}" class="mask" alt="{{ caption }}">
<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}</div>
{% endfor %}{% if commands %}<h2>With your own data</h2><pre>{{ commands }}</pre>
{% endif %}</html>
""",
    autoescape=True,
)


def write_page(
    path: Path,
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    figures: Sequence[tuple[str, Figure]] = (),
    images: Sequence[dict[str, Any]] = (),
    names: Sequence[str] = (),
    palette: Sequence[Sequence[int]] = (),
    lead: Sequence[str] = (),
    commands: str = "",
    words: int = 1,
) -> Path:
    """Write one HTML file that holds all it shows, and return its path.

    Args:
        header, rows: A table as text.
        figures: Captions and figures.
        images: Dictionaries of `image` (PIL), `masks` (caption -> (H, W) train ids), and perhaps the image's `caption`.
        names, palette: Classes and their RGB colors, for the masks.
        lead, commands: Paragraphs above the table; what to type to do the same with one's own data, at the end.
        words: How many columns of the table, from the left, hold words: these are left-aligned.
    """
    colors = np.full((256, 3), 255, dtype=np.uint8)
    colors[: len(palette)] = np.asarray(palette, dtype=np.uint8).reshape(-1, 3)
    rows_of_images = [
        [(shown.get("caption", "image"), _png(shown["image"]))]
        + [(caption, _png(Image.fromarray(colors[np.asarray(mask)]))) for caption, mask in shown["masks"].items()]
        for shown in images
    ]
    legend = [(name, tuple(int(value) for value in color)) for name, color in zip(names, palette, strict=True)]
    plots = [(caption, _png(figure)) for caption, figure in figures]
    tables = {"title": title, "lead": lead, "header": header, "rows": rows, "commands": commands, "words": words}
    text = _TEMPLATE.render(**tables, figures=plots, images=rows_of_images, legend=legend)
    path.write_text(text, encoding="utf-8")
    return path


def _png(image: Image.Image | Figure) -> str:
    buffer = io.BytesIO()
    if isinstance(image, Figure):
        image.savefig(buffer, format="png", dpi=120)
    else:
        image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
