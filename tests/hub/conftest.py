from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers.utils.hub
from hub_server import TOKEN, HubServer
from huggingface_hub import constants
from toy import make_model

from kaseg import KASegImageProcessor


@pytest.fixture
def server() -> Iterator[HubServer]:
    """A Hub of its own for every test, on a free port."""
    with HubServer() as server:
        yield server


@pytest.fixture
def hub(server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> HubServer:
    """The same, as the Hub of this process, which is logged in. The clients read HF_ENDPOINT when they are imported, so
    what they have read is set here."""
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.url)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return server


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits before another try, of the clients and of kaseg, take no time; they are listed."""
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    return waits


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny student with all that a run leaves behind, pickles and all."""
    folder = tmp_path_factory.mktemp("checkpoint") / "student"
    make_model().save_pretrained(folder)
    KASegImageProcessor().save_pretrained(folder)
    (folder / "recipe.yaml").write_text(
        "# ours\nlearning_rate: 0.01\noutput_dir: /home/me/out\ncrop_size:\n- 32\n- 32\n"
    )
    (folder / "results.json").write_text('{"mean_iou": 0.5}\n')
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Student\n\n![example](example.png)\n")
    (folder / "checkpoint-1").mkdir()
    for name in ("example.png", "other.png", "adapters.safetensors", "optimizer.pt", "checkpoint-1/optimizer.pt"):
        (folder / name).write_bytes(b"x")
    torch.save({"a": 1}, folder / "training_args.bin")
    torch.save({"a": 1}, folder / "pytorch_model.bin")
    return folder


@pytest.fixture(scope="session")
def checkpoint_files(checkpoint: Path) -> dict[str, bytes]:
    """What of it a consumer needs to load it."""
    names = ("config.json", "preprocessor_config.json", "model.safetensors")
    return {name: (checkpoint / name).read_bytes() for name in names}
