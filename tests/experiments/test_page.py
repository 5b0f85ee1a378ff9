import base64
import io
import re

import numpy as np
from PIL import Image

from kaseg.experiments.page import write_page


def test_masks_have_the_palettes_colors_and_void_is_white(tmp_path) -> None:
    mask = np.array([[0, 1], [1, 255]], np.uint8)
    path = write_page(
        tmp_path / "page.html",
        title="t",
        header=["model", "mIoU"],
        rows=[["a <b>", "50.0"]],
        images=[{"image": Image.new("RGB", (2, 2)), "masks": {"label": mask}}],
        names=["x", "y"],
        palette=[(10, 20, 30), (40, 50, 60)],
    )
    html = path.read_text()
    assert "a &lt;b&gt;" in html and "rgb(40, 50, 60)" in html
    pictures = [Image.open(io.BytesIO(base64.b64decode(s))) for s in re.findall(r"base64,([^\"]+)", html)]
    colors = np.asarray(pictures[1].convert("RGB"))
    assert colors[0, 0].tolist() == [10, 20, 30] and colors[0, 1].tolist() == [40, 50, 60]
    assert colors[1, 1].tolist() == [255, 255, 255]
