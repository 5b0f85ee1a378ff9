"""Milliseconds of one photo on the static demo's page in headless Chromium, by the page's own clock: the network alone.

    python tests/benchmarks/browser_speed.py

A stride-16 MobileNetV2 student with 21 classes and random weights; WebAssembly on one thread and, with the headers that
allow it, on all of them. Eager PyTorch on one thread is timed beside it, on the same mask graph. Needs what the tests
of the static demo need (`npm install --prefix tests/javascript`, Chromium), and a machine that does nothing else.
"""

import argparse
import statistics
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from kaseg import KASegConfig, KASegImageProcessor, KASegModel
from kaseg.data.scenes import render_scene
from kaseg.evaluation.cost import milliseconds
from kaseg.export import ExportOptions, export_model
from kaseg.export.graph import build_graph
from kaseg.export.static_demo import write_static_demo

sys.path.insert(0, str(Path(__file__).parent.parent))
from javascript_tools import MODULES, browse, serving

READY = "/Ready|could not/.test(document.getElementById('status').textContent)"
DROP = """(async (times) => {
  const status = document.getElementById('status'), stage = document.getElementById('stage'), found = [];
  const blob = await (await fetch('/images/photo.png')).blob();
  for (let time = 0; time < times; time++) {
    status.textContent = '';
    const files = new DataTransfer();
    files.items.add(new File([blob], 'photo.png', { type: 'image/png' }));
    stage.dispatchEvent(new DragEvent('drop', { dataTransfer: files, cancelable: true }));
    while (!/ ms$|could not/.test(status.textContent)) await new Promise((resolve) => setTimeout(resolve, 20));
    found.push(status.textContent);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return found;
})"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--size", type=int, default=512, help="side of the photo")
    parser.add_argument("--photos", type=int, default=10, help="timed, after three to warm up")
    args = parser.parse_args()

    with TemporaryDirectory() as scratch:
        root = Path(scratch)
        model = KASegModel(KASegConfig(num_labels=21)).eval()
        export_model(model, KASegImageProcessor(), root / "export", ExportOptions(output="mask"))
        files = write_static_demo(root / "export", root / "page", MODULES / "onnxruntime-web")
        (root / "images").mkdir()
        photo = Image.fromarray(render_scene(0, 1)[0]).resize((args.size, args.size))
        photo.save(root / "images" / "photo.png")
        for threads in (False, True):
            with serving({"/": root / "page", "/images/": root / "images"}, isolated=threads) as url:
                found = browse(f"{url}/index.html", READY, f"{DROP}({args.photos + 3})")["result"]
            times = [float(status.split()[-2]) for status in found[3:]]
            print(f"Chromium, {'all threads' if threads else 'one thread'}: {statistics.median(times):.0f} ms")
        torch.set_num_threads(1)
        graph = build_graph(model, KASegImageProcessor(), ExportOptions(output="mask"), fuse=False)
        with torch.inference_mode():
            eager = milliseconds({"eager": partial(graph, torch.from_numpy(np.array(photo))[None])}, args.photos)
        print(f"Eager PyTorch, one thread: {statistics.median(eager['eager']):.0f} ms")
        print(f"The page: {sum(files.values()) / 1e6:.1f} MB, of which the model {files['model.onnx'] / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
