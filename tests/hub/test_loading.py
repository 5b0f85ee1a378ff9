"""Loading from a Hub, as users do it; nothing in a repository may run code that the user did not ask for."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hub_server import HubServer
from huggingface_hub import constants
from safetensors.torch import load_file
from transformers import MobileNetV2Config

import kaseg
from kaseg import KASegConfig, KASegImageProcessor, KASegModel, KnowledgeAdaptationConfig, KnowledgeAdaptationTrainer
from kaseg.benchmark.models import build_model
from kaseg.cli.models import load_model
from kaseg.distillation import FeatureAutoencoder, FeatureAutoencoderConfig, TeacherAdapter
from kaseg.loading_errors import CheckpointError

Files = dict[str, bytes]
WEIGHTS = "/model.safetensors"


def states_equal(model: torch.nn.Module, folder: Path) -> bool:
    expected = load_file(folder / "model.safetensors")
    return all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_from_a_hub_id_once_and_then_from_the_cache(hub: HubServer, checkpoint: Path, checkpoint_files: Files) -> None:
    hub.add_repo("me/student", checkpoint_files)
    model = KASegModel.from_pretrained("me/student")
    assert states_equal(model, checkpoint) and not model.training
    assert hub.count("GET", WEIGHTS) == 1
    KASegModel.from_pretrained("me/student")
    assert hub.count("GET", WEIGHTS) == hub.count("GET", "/config.json") == 1
    KASegImageProcessor.from_pretrained("me/student")


def test_revisions(hub: HubServer, checkpoint_files: Files) -> None:
    repo = hub.add_repo("me/student", checkpoint_files)
    first = repo.sha("main")
    config = json.loads(checkpoint_files["config.json"])
    changed = json.dumps({**config, "id2label": {"0": "ground", "1": "square"}}).encode()
    repo.commit("main", {**checkpoint_files, "config.json": changed}, "names")
    assert KASegModel.from_pretrained("me/student").config.id2label[1] == "square"
    assert KASegModel.from_pretrained("me/student", revision=first).config.id2label[1] == "LABEL_1"


def test_offline_and_without_a_server(hub: HubServer, checkpoint_files: Files, no_waiting: list, monkeypatch) -> None:
    hub.add_repo("me/student", checkpoint_files)
    KASegModel.from_pretrained("me/student")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    KASegModel.from_pretrained("me/student")
    with pytest.raises(CheckpointError, match=r"me/other is not .*in the cache .*cache.*HF_HUB_OFFLINE"):
        KASegModel.from_pretrained("me/other")
    assert hub.requests == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    KASegModel.from_pretrained("me/student")
    with pytest.raises(CheckpointError, match=r"could not be fetched from http://127.0.0.1:9 .*Check the connection"):
        KASegModel.from_pretrained("me/other")


def test_a_download_that_is_cut_off_goes_on_where_it_was(hub, checkpoint, checkpoint_files, no_waiting, monkeypatch):
    hub.add_repo("me/student", checkpoint_files)
    hub.fail("GET", WEIGHTS, cut=True)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 65536)  # what was received in whole chunks is kept
    assert states_equal(KASegModel.from_pretrained("me/student"), checkpoint)
    (asked,) = hub.ranges
    start = int(asked.removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= len(checkpoint_files["model.safetensors"]) // 2 and hub.count("GET", WEIGHTS) == 2


@pytest.mark.parametrize(
    "failure", [{"status": 429, "headers": {"Retry-After": "1"}}, {"delay": 0.3}], ids=["429", "slow"]
)
def test_passing_trouble_is_outlasted(hub: HubServer, checkpoint_files: Files, no_waiting: list, failure: dict) -> None:
    hub.add_repo("me/student", checkpoint_files)
    hub.fail("GET", WEIGHTS, **failure)
    KASegModel.from_pretrained("me/student")


def test_what_is_missing_or_forbidden(hub: HubServer, checkpoint_files: Files, monkeypatch) -> None:
    hub.add_repo("me/student", checkpoint_files)
    hub.add_repo("me/gated", checkpoint_files, gated=True)
    hub.add_repo("me/private", checkpoint_files, private=True)
    KASegModel.from_pretrained("me/gated")
    monkeypatch.delenv("HF_TOKEN")
    shutil.rmtree(constants.HF_HUB_CACHE)
    for name, message in {
        "me/none": "neither a folder here, nor a checkpoint that ships with kaseg",
        "kaseg/mobilenetv2-os4-camvid-none": "nor a checkpoint that ships with kaseg",
        "me/private": "for a private repository log in with `hf auth login`",
        "me/gated": f"is gated. Ask for access at {hub.url}/me/gated",
        "./nowhere": "no such folder",
    }.items():
        with pytest.raises(CheckpointError) as error:
            KASegModel.from_pretrained(name)
        assert message in str(error.value)
    with pytest.raises(CheckpointError, match=r"has no revision 'v9'.*me/student/tree/main"):
        KASegModel.from_pretrained("me/student", revision="v9")


def test_the_shipped_name_needs_no_network(hub: HubServer) -> None:
    names = kaseg.list_models()
    if not names:
        pytest.skip("no checkpoint ships with this version")
    KASegModel.from_pretrained(names[0])
    assert hub.requests == []


@pytest.mark.parametrize("damage", ["cut off", "other bytes", "one byte"])
def test_damaged_weights_are_named(hub: HubServer, checkpoint, checkpoint_files, tmp_path, damage: str) -> None:
    good = checkpoint_files["model.safetensors"]
    bad = {
        "cut off": good[:-100],
        "other bytes": b"<html>" * 100,
        "one byte": good[:-9] + bytes([good[-9] ^ 1]) + good[-8:],
    }
    hub.add_repo("me/student", checkpoint_files)
    KASegModel.from_pretrained("me/student")
    (file,) = Path(constants.HF_HUB_CACHE).glob("models--me--student/snapshots/*/model.safetensors")
    file.resolve().write_bytes(bad[damage])
    with pytest.raises(CheckpointError, match="damaged or cut off.*force_download=True") as error:
        KASegModel.from_pretrained("me/student")
    assert str(file) in str(error.value)
    assert states_equal(KASegModel.from_pretrained("me/student", force_download=True), checkpoint)
    if damage != "one byte":  # a folder has no record of what it should be
        folder = shutil.copytree(checkpoint, tmp_path / "copy")
        (folder / "model.safetensors").write_bytes(bad[damage])
        with pytest.raises(CheckpointError, match="Copy or save the checkpoint again") as error:
            KASegModel.from_pretrained(folder)
        assert str(folder / "model.safetensors") in str(error.value)


def test_what_is_not_ours(hub: HubServer, checkpoint_files: Files, tmp_path: Path) -> None:
    MobileNetV2Config().save_pretrained(tmp_path)
    hub.add_repo("me/theirs", {**checkpoint_files, "config.json": (tmp_path / "config.json").read_bytes()})
    for load in (KASegModel.from_pretrained, KASegConfig.from_pretrained):
        with pytest.raises(ValueError, match=r"of type 'mobilenet_v2', not 'kaseg'.*teacher=.*from_transformers"):
            load("me/theirs")
    hub.add_repo("me/nothing", {"README.md": b"hello"})
    with pytest.raises(ValueError, match="me/nothing has no config.json"):
        KASegModel.from_pretrained("me/nothing")


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return open, (str(self.trace), "w")


def test_pickles_are_not_read(hub: HubServer, checkpoint_files: Files, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    pickle.loads(pickle.dumps(Payload(trace))).close()
    assert trace.is_file(), "the payload works"
    trace.unlink()
    evil = tmp_path / "evil.bin"
    torch.save(Payload(trace), evil)
    files = {name: data for name, data in checkpoint_files.items() if name != "model.safetensors"}
    files |= {"pytorch_model.bin": evil.read_bytes(), "training_args.bin": evil.read_bytes()}
    hub.add_repo("me/evil", files)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    autoencoder = tmp_path / "autoencoder"
    FeatureAutoencoderConfig().save_pretrained(autoencoder)
    (autoencoder / "pytorch_model.bin").write_bytes(evil.read_bytes())

    def distil(name: str) -> None:
        student = KASegModel(KASegConfig(backbone="mobilenetv2_035", head_channels=32))
        args = KnowledgeAdaptationConfig(output_dir=str(tmp_path / "out"), report_to="none", use_cpu=True)
        KnowledgeAdaptationTrainer(student, "me/evil", args, autoencoder=name)

    loaders: list[tuple[Callable, object]] = [
        (load, name)
        for load in (KASegModel.from_pretrained, TeacherAdapter.from_pretrained)
        for name in ("me/evil", str(folder))
    ]
    loaders += [(distil, str(autoencoder)), (FeatureAutoencoder.from_pretrained, autoencoder)]
    for load, name in loaders:
        with pytest.raises(OSError, match="safetensors"):
            load(name)
    with pytest.raises(ValueError, match="refused"):
        KASegModel(KASegConfig(backbone="mobilenetv2_035"), backbone_weights=evil)
    assert not trace.exists()
    assert hub.count("GET", "pytorch_model.bin|training_args.bin") == 0
    assert hub.count("GET", "/commits/|/discussions") == 0, "the conversion service was not asked"


def test_code_in_a_repository_is_not_run(hub, checkpoint_files, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *text: "y")  # whatever transformers asks on a terminal
    trace = tmp_path / "trace"
    code = f"open({str(trace)!r}, 'w')\nclass Evil: ...\n".encode()
    auto_map = {name: "evil.Evil" for name in ("AutoConfig", "AutoModelForSemanticSegmentation", "AutoImageProcessor")}
    configs = {
        name: {**json.loads(checkpoint_files[name]), "auto_map": auto_map}
        for name in ("config.json", "preprocessor_config.json")
    }
    ours = {**checkpoint_files, "evil.py": code, **{n: json.dumps(c).encode() for n, c in configs.items()}}
    hub.add_repo("me/evil", ours)
    KASegModel.from_pretrained("me/evil")
    KASegImageProcessor.from_pretrained("me/evil")
    TeacherAdapter.from_pretrained("me/evil")
    foreign = json.dumps({**configs["config.json"], "model_type": "evil"}).encode()
    hub.add_repo("me/foreign", {**ours, "config.json": foreign})
    with pytest.raises(ValueError, match="of type 'evil'"):
        KASegModel.from_pretrained("me/foreign")
    with pytest.raises(ValueError, match="custom code"):
        TeacherAdapter.from_pretrained("me/foreign")
    for load in (lambda: load_model("me/foreign", "cpu"), lambda: build_model("me/foreign", 2)):
        with pytest.raises(ValueError, match="custom code"):
            load()
    assert not trace.exists()
