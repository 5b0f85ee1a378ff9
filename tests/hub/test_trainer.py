"""Trainers that push."""

from pathlib import Path

import pytest
import torch
import yaml
from hub_server import HubServer
from toy import arguments, ka_trainer, seg_trainer

from kaseg import KASegModel
from kaseg.uploading import UploadError

PUSHING = {"save_strategy": "steps", "save_steps": 1, "push_to_hub": True, "hub_model_id": "me/student"}
EVERY_SAVE = {**PUSHING, "hub_strategy": "every_save", "hub_always_push": True}
PUSHED = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}


def pickles(files: dict[str, bytes]) -> set[str]:
    return {name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))}


def test_push_after_training(hub: HubServer, tmp_path: Path) -> None:
    trainer = seg_trainer(tmp_path / "student", max_steps=2)
    trainer.train()
    trainer.push_to_hub(commit_message="done", private=True, revision="v1")
    repo = hub.repo("me/student")
    assert repo.private and set(repo.files("v1")) == PUSHED and repo.messages[-1] == ("v1", "done")
    future = trainer.push_to_hub(blocking=False)
    future.result()
    assert set(repo.files()) == PUSHED


def test_an_adapted_student_is_pushed_without_its_adapters(hub: HubServer, tmp_path: Path) -> None:
    trainer = ka_trainer(tmp_path / "out", max_steps=2, **EVERY_SAVE)
    trainer.train()
    trainer.push_to_hub()
    repo = hub.repo("me/student")
    assert set(repo.files()) == PUSHED
    assert [m for _, m in repo.messages[1:]][:2] == [f"Training in progress, step {step}" for step in (1, 2)]
    assert (tmp_path / "out" / "adapters.safetensors").is_file()
    loaded = KASegModel.from_pretrained("me/student").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in trainer.segmentation_model.state_dict().items())


@pytest.mark.parametrize(
    ("strategy", "folder"), [("end", None), ("checkpoint", "last-checkpoint"), ("all_checkpoints", "checkpoint-2")]
)
def test_hub_strategies(hub: HubServer, tmp_path: Path, strategy: str, folder: str | None) -> None:
    trainer = seg_trainer(tmp_path / "out", **{"max_steps": 2, **PUSHING, "save_steps": 2, "hub_strategy": strategy})
    trainer.train()
    trainer._finish_current_push()
    files = hub.repo("me/student").files()
    if folder is None:
        assert files == {}
        return
    below = {name.removeprefix(f"{folder}/") for name in files if name.startswith(folder)}
    assert {"optimizer.pt", "trainer_state.json", "model.safetensors"} <= below, "resuming was asked for"
    assert "training_args.bin" not in below and {n for n in pickles(files) if "/" not in n} == set()
    assert not list((tmp_path / "out").glob("_push-*"))


def test_training_outlives_a_hub_that_fails(hub: HubServer, tmp_path: Path, no_waiting: list, caplog) -> None:
    trainer = seg_trainer(tmp_path / "out", max_steps=2, **EVERY_SAVE)
    hub.fail("POST", "/commit/", times=1000, status=500)
    trainer.train()
    assert trainer.state.global_step == 2 and "Training goes on" in caplog.text
    with pytest.raises(UploadError, match=r"(?s)The model is saved in .*out.*kaseg push .*out me/student") as error:
        trainer.push_to_hub()
    assert "in trouble (500)" in str(error.value)
    KASegModel.from_pretrained(tmp_path / "out")


def test_no_token_is_told_before_training(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UploadError, match="hf auth login"):
        seg_trainer(tmp_path / "out", push_to_hub=True, hub_model_id="me/student")


def test_a_run_whose_push_fails_has_everything_on_disk_and_says_so(kaseg, hub, tmp_path: Path, no_waiting) -> None:
    recipe = {
        **arguments(tmp_path / "run", max_steps=1, per_device_train_batch_size=2),
        "backbone": "mobilenetv2_035",
        "output_stride": 32,
        "pretrained_backbone": False,
        "dataset": "scenes",
        "max_train_samples": 2,
        "max_eval_samples": 1,
        "push_to_hub": True,
        "hub_model_id": "me/run",
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    hub.fail("PUT", "/lfs-store/", times=1000, status=500)
    folder = tmp_path / "run"
    assert f"kaseg push {folder} me/run" in kaseg.fail("train", "--config", file)
    assert (folder / "results.json").is_file() and (folder / "model.safetensors").is_file()
    hub.failures.clear()
    kaseg.succeed("push", folder, "me/run")
    files = hub.repo("me/run").files()
    assert {*PUSHED, "recipe.yaml", "results.json"} <= set(files) and not pickles(files)
    assert str(tmp_path).encode() not in b"".join(
        data for name, data in files.items() if name.endswith(("yaml", "json", "md"))
    )
