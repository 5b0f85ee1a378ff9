"""The demo as a Space: what is sent, and that it runs from what is sent alone."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from hub_server import HubServer
from huggingface_hub import RepoCard, snapshot_download
from packaging.requirements import Requirement

from kaseg.checkpoints import PACKAGE_DIR
from kaseg.hub import space

gradio = pytest.importorskip("gradio", reason="gradio is not installed (the demo extra)")


def test_a_folder_is_sent_with_the_page(kaseg, hub: HubServer, checkpoint: Path) -> None:
    kaseg.succeed("push", checkpoint, "me/demo", "--space")
    space = hub.repo("me/demo", "space")
    assert space.sdk == "gradio" and space.messages[-1][1] == "Upload demo"
    files = space.files()
    assert files["models/student/model.safetensors"] == (checkpoint / "model.safetensors").read_bytes()
    assert files["kaseg/inference/app.py"] == (PACKAGE_DIR / "inference" / "app.py").read_bytes()
    assert not any(name.endswith((".pt", ".bin", ".pyc")) or "hub_configs" in name for name in files)
    card = RepoCard(files["README.md"].decode()).data
    expected = {"title": "student", "sdk": "gradio", "sdk_version": gradio.__version__, "app_file": "app.py"}
    assert expected.items() <= card.to_dict().items()
    assert card.license == "mit" and "models" not in card.to_dict()
    index, *requirements = files["requirements.txt"].decode().splitlines()
    assert index.startswith("--extra-index-url https://")
    names = {Requirement(line).name for line in requirements}
    assert {"torch", "transformers", "timm", "av"} <= names and not {"gradio", "pytest", "onnx"} & names


def test_what_lies_in_the_package_beside_its_code_stays(tmp_path, checkpoint, monkeypatch):
    """In a wheel, the shipped checkpoints do."""
    package = tmp_path / "kaseg"
    for name in ("__init__.py", "data/catalog.yaml", "data/__pycache__/a.pyc", "hub_configs/os16/model.safetensors"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_bytes(b"")
    monkeypatch.setattr(space, "PACKAGE_DIR", package)
    sent = {name for name in space.files_for_space(checkpoint) if name.startswith("kaseg/")}
    assert sent == {"kaseg/__init__.py", "kaseg/data/catalog.yaml"}


def test_a_model_of_the_hub_is_named(kaseg, hub: HubServer, checkpoint_files: dict[str, bytes]) -> None:
    hub.add_repo("me/student", checkpoint_files)
    kaseg.succeed("push", "me/student", "me/demo", "--space", "--private")
    files = hub.repo("me/demo", "space").files()
    assert hub.repo("me/demo", "space").private
    assert RepoCard(files["README.md"].decode()).data.to_dict()["models"] == ["me/student"]
    assert b"['me/student']" in files["app.py"] and not any(name.startswith("models/") for name in files)


def test_nothing_is_made_for_a_model_that_is_not_there(kaseg, hub: HubServer) -> None:
    output = kaseg.fail("push", "me/nothing", "me/demo", "--space")
    assert "me/nothing is neither a folder here" in " ".join(output.split())
    assert ("space", "me/demo") not in hub.repos


@pytest.mark.parametrize("option", [["--with-code"], ["--as-transformers"], ["--size", "32,32"]])
def test_options_of_models_are_refused(kaseg, checkpoint: Path, option: list[str]) -> None:
    output = kaseg.fail("push", checkpoint, "me/demo", "--space", *option)
    assert "--space sends the demo" in " ".join(output.split())


@pytest.mark.slow
def test_what_was_sent_runs(kaseg, hub: HubServer, checkpoint: Path, tmp_path: Path) -> None:
    kaseg.succeed("push", checkpoint, "me/demo", "--space")
    folder = snapshot_download("me/demo", repo_type="space", local_dir=tmp_path / "space")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(Path(folder) / "app.py")]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log)
    try:
        config = json.loads(_read(f"http://127.0.0.1:{port}/config", process))
    finally:
        process.terminate()
        process.wait(timeout=30)
    dropdowns = [part["props"]["choices"] for part in config["components"] if part["type"] == "dropdown"]
    assert dropdowns and all(choices == [["models/student", "models/student"]] for choices in dropdowns)


def _read(url: str, process: subprocess.Popen) -> bytes:
    """What the server answers once it is there."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return answer.read()
        except urllib.error.URLError:
            time.sleep(0.5)
    raise AssertionError(f"The Space did not answer; exit status {process.poll()}.")
