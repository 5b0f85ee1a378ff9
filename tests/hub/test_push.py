"""What is sent of a checkpoint, and the commands that send it."""

import ast
import json
import shutil
from pathlib import Path

import pytest
from hub_server import HubServer
from toy import make_model
from transformers import AutoModelForSemanticSegmentation, MobileNetV2Config

import kaseg
from kaseg import KASegConfig, KASegImageProcessor, KASegModel
from kaseg.checkpoints import PACKAGE_DIR
from kaseg.hub import checkpoint_to_publish, files_to_push
from kaseg.hub.remote_code import CODE_FILES

LOADED = ("config.json", "model.safetensors", "preprocessor_config.json")
CONSUMED = {*LOADED, "README.md", "example.png", "recipe.yaml", "results.json"}


def test_exactly_what_a_consumer_needs(checkpoint: Path) -> None:
    files = files_to_push(checkpoint)
    assert set(files) == CONSUMED
    assert files["recipe.yaml"] == b"# ours\nlearning_rate: 0.01\ncrop_size:\n- 32\n- 32\n", (
        "places are nobody's concern"
    )
    assert files["config.json"] == checkpoint / "config.json"


def test_of_local_folders_only_the_name_is_published(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "run")
    (folder / "recipe.yaml").write_text(f"seed: 1\nteacher: {checkpoint}\noptim: sgd  # paper\n")
    recipe = files_to_push(folder)["recipe.yaml"]
    assert recipe == f"seed: 1\nteacher: {checkpoint.name}\noptim: sgd  # paper\n".encode()


def test_with_code_brings_all_that_the_model_files_import(checkpoint: Path) -> None:
    files = files_to_push(checkpoint, with_code=True)
    assert set(files) == CONSUMED | set(CODE_FILES)
    for name in CODE_FILES:
        for node in ast.walk(ast.parse((PACKAGE_DIR / name).read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and f"{node.module}.py" in CODE_FILES, (name, node.module)
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not any(imported.split(".")[0] == "kaseg" for imported in names), name
    config = json.loads(files["config.json"])
    original = json.loads((checkpoint / "config.json").read_text())
    assert config.pop("auto_map")["AutoConfig"] == "configuration_kaseg.KASegConfig" and config == original


def test_what_is_no_checkpoint_is_not_sent(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        files_to_push(tmp_path / "nowhere")
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"model.safetensors is damaged"):
        files_to_push(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks weights \(model.safetensors\)"):
        files_to_push(folder)
    MobileNetV2Config().save_pretrained(folder)
    shutil.copy(checkpoint / "model.safetensors", folder)
    with pytest.raises(ValueError, match="type 'mobilenet_v2'"):
        files_to_push(folder)


def test_model_and_processor_push_themselves(hub: HubServer, checkpoint: Path) -> None:
    model, processor = KASegModel.from_pretrained(checkpoint), KASegImageProcessor()
    model.push_to_hub("me/student", private=True, commit_message="weights")
    processor.push_to_hub("me/student")
    repo = hub.repo("me/student")
    assert repo.private and set(repo.files()) == {"README.md", *LOADED} and ("main", "weights") in repo.messages
    model.push_to_hub("me/student", revision="v2")
    assert set(repo.files("v2")) == {"README.md", *LOADED}
    make_model(seed=1).push_to_hub("me/student", create_pr=True)
    assert "refs/pr/1" in repo.refs
    assert KASegModel.from_pretrained("me/student", revision="v2").config.num_labels == 2


def test_push_command(kaseg, hub: HubServer, checkpoint: Path) -> None:
    shown = kaseg.succeed("push", checkpoint, "me/student", "--dry-run", "--with-code", "--private").output
    size = (checkpoint / "model.safetensors").stat().st_size / 1e6
    assert hub.requests == [] and f"{size:.1f} MB" in shown and "modeling_kaseg.py" in shown
    assert "training_args.bin" not in shown and "me/student (private if it is new), branch main" in shown
    for repo_id in ("me/{x}", "a/b/c", "me/a student", "me/"):
        assert "Repo id must" in kaseg.fail("push", checkpoint, repo_id, "--dry-run")
    output = kaseg.succeed("push", checkpoint, "me/student", "--private", "--revision", "v1", "-m", "the first").output
    repo = hub.repo("me/student")
    assert repo.private and set(repo.files("v1")) == CONSUMED and repo.messages[-1] == ("v1", "the first")
    assert f"{hub.url}/me/student/commit/" in output
    output = kaseg.succeed("push", checkpoint, "me/student", "--create-pr").output
    assert f"{hub.url}/me/student/discussions/1" in output


def test_push_as_transformers(kaseg, hub: HubServer, checkpoint: Path, tmp_path: Path) -> None:
    command = ("push", checkpoint, "me/student")
    assert "leave --with-code" in kaseg.fail(*command, "--as-transformers", "--with-code")
    assert "--size would change nothing" in kaseg.fail(*command, "--size", "64,64")
    student = KASegModel(KASegConfig("mobilenetv2_035", output_stride=32, num_labels=2, pad_to_stride=True))
    student.save_pretrained(tmp_path / "student")
    KASegImageProcessor().save_pretrained(tmp_path / "student")
    command = ("push", tmp_path / "student", "me/student", "--as-transformers")
    assert "pad_to_stride=True" in kaseg.fail(*command) and hub.requests == []
    kaseg.succeed(*command, "--size", "64,96")
    assert set(hub.repo("me/student").files()) == {"README.md", "export.json", *LOADED}
    loaded = AutoModelForSemanticSegmentation.from_pretrained("me/student")
    assert type(loaded).__name__ == "MobileNetV2ForSemanticSegmentation"


def test_push_command_reports_what_to_do(kaseg, hub: HubServer, checkpoint: Path) -> None:
    output = kaseg.fail("push", checkpoint, "other/student")
    assert "may not write there (403)" in output and "Traceback" not in output


def test_publish_command(kaseg, hub: HubServer, checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "hub_configs" / "ours")
    assert "sent to kaseg/ours, branch main" in kaseg.succeed("publish", folder, "--dry-run").output
    for arguments, repo in (((), "kaseg/ours"), (("--namespace", "me"), "me/ours")):
        kaseg.succeed("publish", folder, *arguments)
        assert set(hub.repo(repo).files()) == CONSUMED
    (folder / "results.json").unlink()
    assert "has no results.json" in kaseg.fail("publish", folder)


def test_every_shipped_checkpoint_can_be_published() -> None:
    for name in kaseg.list_models():
        folder, repo = checkpoint_to_publish(name)
        assert repo == name and folder == kaseg.checkpoint_path(name)
    for name in ("kaseg/none", "mobilenetv2-os16-voc-ka"):
        with pytest.raises(FileNotFoundError, match=f"No folder '{name}'.*not trained yet.*kaseg compare.*voc.yaml"):
            checkpoint_to_publish(name)
