import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from forked import Jobs
from safetensors.torch import load_file
from toy import Stop, ka_trainer, make_dataset, seg_trainer, states_equal

from kaseg import KnowledgeAdaptationTrainer, SegmentationTrainer
from kaseg.trainer.base import TermTrainer, last_complete_checkpoint

# 12 samples in batches of 4: the runs are stopped in the middle of an epoch and cross epochs afterwards.
STEPS = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "save_total_limit": None}


def _plain(output_dir) -> SegmentationTrainer:
    return seg_trainer(output_dir, **STEPS, brightness=0.3, mix="classmix")


# Every lever at once; the weights are measured before and after each place where a run is broken off.
LEVERS = {
    "unlabelled": True,
    "labelled_share": 0.75,
    "correct_teacher": True,
    "adaptation_weight": "auto",
    "affinity_weight": "auto",
    "balanced_every": 3,
    "distillation_losses": {
        "knowledge_distillation": {"weight": "auto", "share": 0.2},
        "hint": {"weight": 1, "images": "unlabelled"},
    },
    "adaptation_form": "whitened",
    "adapter_warmup_steps": 4,
    "mix": "classmix",
    "mix_probability": 0.8,
    "ema_decay": 0.9,
    "teacher_output_stride": 8,
    "gradient_accumulation_steps": 2,
    "per_device_train_batch_size": 2,
}


def _distillation(output_dir, unlabelled: bool = False, **fields) -> KnowledgeAdaptationTrainer:
    images = make_dataset(6, seed=5) if unlabelled else None
    return ka_trainer(output_dir, unlabelled=images, **{**STEPS, "autoencoder_max_steps": 4, **fields})


def test_plain_training_resumed_in_the_middle_of_an_epoch_is_exact_and_ends_with_its_last_step(tmp_path) -> None:
    whole = _plain(tmp_path / "whole")
    whole.train(resume_from_checkpoint=True)  # without a checkpoint it starts from the beginning
    broken = _plain(tmp_path / "broken")
    broken.add_callback(Stop(3))
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    for folder in ("broken", "whole"):
        resumed = _plain(tmp_path / folder)
        torch.manual_seed(99)
        resumed.train(resume_from_checkpoint=True)
        assert resumed.state.global_step == whole.state.global_step == 6
        assert states_equal(whole.model.state_dict(), resumed.model.state_dict())
    assert not (tmp_path / "whole/checkpoint-7").exists()


def _done(trainer: KnowledgeAdaptationTrainer, resume: bool | str = False) -> Path:
    """The files of a distillation that is trained to its end."""
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    return Path(trainer.args.output_dir)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The files of an uninterrupted distillation."""
    return _done(_distillation(tmp_path_factory.mktemp("whole")))


@pytest.fixture(scope="module")
def whole_with_levers(tmp_path_factory) -> Path:
    """The same with every lever on."""
    return _done(_distillation(tmp_path_factory.mktemp("levers"), **LEVERS))


def _same_result(first: Path, second: Path, names: tuple[str, ...] = ()) -> bool:
    names = ("model.safetensors", "adapters.safetensors", "autoencoder/model.safetensors", *names)
    return all(states_equal(load_file(first / name), load_file(second / name)) for name in names)


STAGES = ("autoencoder", "adapters", "distillation")


def killed_in(stage: str, output_dir: str) -> None:
    """A run, in a process of its own, that is killed in the middle of a stage."""
    training_step = TermTrainer.training_step

    def killing_step(self, *args, **kwargs):
        if self.stage == stage and self.state.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return training_step(self, *args, **kwargs)

    TermTrainer.training_step = killing_step
    _distillation(output_dir, **LEVERS).train()


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_distillation_killed_in_any_stage_ends_the_same(whole_with_levers: Path, tmp_path, stage: str) -> None:
    codes, printed = Jobs(__file__, threads=torch.get_num_threads()).run("killed_in", stage, str(tmp_path))
    assert codes == [-signal.SIGKILL], printed
    torch.manual_seed(99)
    trainer = _distillation(tmp_path, **LEVERS)
    _done(trainer, resume=True)
    own = ("adapters/adapters.safetensors", "checkpoint-6/trained_weights.safetensors")
    assert _same_result(whole_with_levers, tmp_path, own)
    weights = trainer.model.balance.weights()
    assert len(weights) == 3 and all(weight > 0 for weight in weights.values())


def test_with_the_teachers_maps_of_whole_images_resuming_is_exact(tmp_path) -> None:
    """Mixed images have no maps, so this cannot be one of the levers above."""
    unmixed = {name: value for name, value in LEVERS.items() if not name.startswith("mix")}
    fields = {**unmixed, "teacher_view": "image", "teacher_logits_stride": 2}
    whole = _done(_distillation(tmp_path / "whole", **fields))
    broken = _distillation(tmp_path / "broken", **fields)
    broken.add_callback(Stop(3))
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    torch.manual_seed(99)
    assert _same_result(whole, _done(_distillation(tmp_path / "broken", **fields), resume=True))


def test_resuming_a_finished_first_stage_does_not_fit_it_again(whole: Path, tmp_path) -> None:
    shutil.copytree(whole / "autoencoder", tmp_path / "autoencoder")
    trainer = _distillation(tmp_path)
    trainer.fit_autoencoder = lambda resume: (
        pytest.fail("fitted again") if not resume else type(trainer).fit_autoencoder(trainer, resume)
    )
    modified = (tmp_path / "autoencoder/model.safetensors").stat().st_mtime_ns
    assert _same_result(whole, _done(trainer, resume=True))
    assert (tmp_path / "autoencoder/model.safetensors").stat().st_mtime_ns == modified


def test_a_checkpoint_of_another_folder_brings_its_autoencoder(whole: Path, tmp_path) -> None:
    trainer = _distillation(tmp_path)
    trainer.args.autoencoder_max_steps = 2  # which would give another autoencoder
    assert _same_result(whole, _done(trainer, resume=str(whole / "checkpoint-4")))
    assert not list((tmp_path / "autoencoder").glob("checkpoint-*"))
    shutil.copytree(whole / "checkpoint-4", tmp_path / "alone/checkpoint-4")
    with pytest.raises(FileNotFoundError, match="alone/autoencoder: no finished autoencoder"):
        _distillation(tmp_path / "new").train(resume_from_checkpoint=str(tmp_path / "alone/checkpoint-4"))
    # Nor is another one fitted where the run's own is gone, or an unfinished one of a run that was begun anew.
    (tmp_path / "alone/autoencoder").mkdir()
    with pytest.raises(FileNotFoundError, match="alone/autoencoder: no finished autoencoder, .*--no-resume"):
        _distillation(tmp_path / "alone").train(resume_from_checkpoint=True)


def test_a_first_stage_killed_while_it_saved_its_model_is_not_taken_for_finished(whole: Path, tmp_path) -> None:
    """save_pretrained writes config.json before the weights."""
    shutil.copytree(whole / "autoencoder", tmp_path / "autoencoder")
    (tmp_path / "autoencoder/trainer_state.json").unlink()
    (tmp_path / "autoencoder/model.safetensors").write_bytes(b"cut off")
    assert _same_result(whole, _done(_distillation(tmp_path), resume=True))


class TestLastCompleteCheckpoint:
    def test_a_half_written_folder_is_passed_over(self, tmp_path) -> None:
        for step, state in ((2, "{}"), (10, '{"global_step": 1'), (12, None)):
            folder = tmp_path / f"checkpoint-{step}"
            folder.mkdir()
            if state is not None:
                (folder / "trainer_state.json").write_text(state)
        assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
        assert last_complete_checkpoint(tmp_path / "nowhere") is None

    def test_a_folder_with_a_file_that_is_cut_off_is_passed_over(self, whole: Path, tmp_path) -> None:
        """As after a power cut, of which the file that was written last may know nothing."""
        for step in (4, 6):
            shutil.copytree(whole / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
        last = tmp_path / "checkpoint-6"
        files = [file for file in last.iterdir() if file.suffix in (".safetensors", ".pt", ".pth")]
        assert {file.suffix for file in files} == {".safetensors", ".pt", ".pth"}
        for file in files:
            before = file.read_bytes()
            for content in (b"", before[: len(before) // 2]):
                file.write_bytes(content)
                assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4"), file
            file.write_bytes(before)
        assert last_complete_checkpoint(tmp_path) == str(last)
