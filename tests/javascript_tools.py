"""Node and headless Chromium for the tests of what runs in browsers; where one is missing they skip with a reason."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from toy import vary_batch_norm

from kaseg import KASegConfig, KASegImageProcessor, KASegModel
from kaseg.data import SCENES
from kaseg.data.scenes import render_scene

JAVASCRIPT = Path(__file__).with_name("javascript")
MODULES = JAVASCRIPT / "node_modules"


def varied_model(
    backbone: str = "test_resnet.r160_in1k", output_stride: int = 8, statistics: bool = False, **config: Any
) -> KASegModel:
    """A network of random weights that finds each of the scenes' classes somewhere in the first of them."""
    torch.manual_seed(0)
    labels = {"id2label": SCENES.id2label, "label2id": SCENES.label2id}
    model = KASegModel(KASegConfig(backbone, output_stride, head_channels=32, **labels, **config)).eval()
    if statistics:
        vary_batch_norm(model)
    torch.nn.init.normal_(model.classifier.weight)
    scenes = [render_scene(0, index)[0] for index in range(5)]
    with torch.no_grad():
        logits = model(**KASegImageProcessor()(scenes, return_tensors="pt")).logits
        mean, std = logits.mean(dim=(0, 2, 3)), logits.std(dim=(0, 2, 3))
        model.classifier.weight /= std[:, None, None, None]
        model.classifier.bias.copy_((model.classifier.bias - mean) / std)
    return model


def needs_node() -> None:
    """Skips the test where Node.js or its packages are missing."""
    if shutil.which("node") is None:
        pytest.skip("Node.js is not installed")
    if not (MODULES / "@huggingface" / "transformers").is_dir():
        pytest.skip("no transformers.js: npm install --ignore-scripts --prefix tests/javascript")


def chromium() -> str:
    """The browser's program; skips the test where it is missing."""
    needs_node()
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("KASEG_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("Chromium is not installed (apt-get install chromium, or KASEG_CHROMIUM=PROGRAM)")
    return found


def node(script: str, *arguments: str) -> Any:
    """What a script prints as JSON."""
    command = ["node", str(JAVASCRIPT / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def browse(url: str, ready: str, expression: str) -> dict[str, Any]:
    """What an expression gives in a page that is ready. All that the page asked for came from the page's own server and
    was there, and it reported no error."""
    seen = node("browser.mjs", chromium(), url, ready, expression)
    addresses = [address for address in seen["requests"] if address.startswith("http")]
    foreign = [address for address in addresses if address.split("/")[2] != url.split("/")[2]]
    # transformers.js looks whether there is a tokenizer.
    missing = [address for address in seen["missing"] if not address.endswith("/tokenizer_config.json")]
    assert (foreign, missing, seen["errors"]) == ([], [], [])
    return seen


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, folders: Mapping[str, Path], isolated: bool, *args: Any, **kwargs: Any) -> None:
        self.folders, self.isolated = folders, isolated
        super().__init__(*args, **kwargs)

    def translate_path(self, path: str) -> str:
        path = path.partition("?")[0]
        prefix = max((p for p in self.folders if path.startswith(p)), key=len)
        return str(self.folders[prefix] / path.removeprefix(prefix))

    def end_headers(self) -> None:
        if self.isolated:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def serving(folders: Mapping[str, Path], isolated: bool = False) -> Iterator[str]:
    """The address of a server of files: beginning of the path ("/", "/models/") -> folder.

    Args:
        folders: What is served.
        isolated: Send the headers that let WebAssembly use threads.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, folders, isolated))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
