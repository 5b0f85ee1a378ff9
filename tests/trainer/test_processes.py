"""The same global batch on one and on two processes, by real processes on the CPU (gloo)."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from forked import Jobs
from safetensors.torch import load_file, save_file
from torch import nn
from toy import arguments, ka_trainer, make_dataset, make_model, seg_trainer, states_equal
from transformers import TrainerCallback

from kaseg import KASegModel, SegmentationConfig, SegmentationTrainer
from kaseg.distillation.terms import BASELINE_TERMS

GLOBAL_BATCH, STEPS = 4, 4
STREAMS = (1, 5)  # images
WEIGHTS = ("model.safetensors", "adapters.safetensors", "autoencoder/model.safetensors")


class Recorder(TrainerCallback):
    """Writes the weights that every step begins with and its gradients.

    With `stop`, ends its process after that step as if it had been killed. With `leader`, the folder of another run,
    every step begins with the weights that this run had there. A few steps amplify what rounding leaves until a unit is
    on in one run and off in the other, on one process, too (with ATEN_CPU_CAPABILITY=default against avx2, gradients
    agree to 3e-5 in the second step and are 5 % apart in the third), so only steps from equal weights can be compared.
    """

    def __init__(self, folder: Path, stop: int, leader: Path | None) -> None:
        self.folder, self.stop, self.leader = folder, stop, leader

    def _write(self, what: str, step: int, tensors: dict[str, torch.Tensor]) -> None:
        named = {name.removeprefix("module."): tensor.contiguous() for name, tensor in tensors.items()}
        save_file(named, self.folder / f"{what}-{step}.safetensors")

    def on_step_begin(self, args, state, control, model=None, **kwargs) -> None:
        weights = {name: parameter.data for name, parameter in model.named_parameters()}
        if state.is_world_process_zero:
            self._write("weights", state.global_step, weights)
        if self.leader is not None:
            others = load_file(self.leader / f"weights-{state.global_step}.safetensors")
            for name, weight in weights.items():
                weight.copy_(others[name.removeprefix("module.")])

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs) -> None:
        if state.is_world_process_zero:
            self._write("gradients", state.global_step, {n: p.grad for n, p in model.named_parameters()})

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.stop:
            os._exit(1)


def as_one(output_dir: str, stop: int, leader: str | None = None, unlabelled: bool = False) -> None:
    """One process of a run of both stages, with every loss that is a mean over positions or images."""
    # Statistics of BatchNorm would be each process's own.
    nn.modules.batchnorm._BatchNorm.train = lambda self, mode=True: nn.Module.train(self, False)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    trainer = ka_trainer(
        output_dir,
        make_model(classifier_dropout_prob=0.0),
        unlabelled=make_dataset(5, seed=4) if unlabelled else None,
        per_device_train_batch_size=GLOBAL_BATCH // processes,
        max_steps=STEPS,
        save_strategy="steps",
        save_steps=2,
        ddp_backend="gloo" if processes > 1 else None,
        autoencoder_learning_rate=0.01,
        ignore_void_positions=not unlabelled,
        class_weights=[0.3, 2.0],
        distillation_class_weights=True,
        autoencoder_classifier_weight=1.0,
        autoencoder_class_weights=True,
        distillation_losses={name: 1.0 for name in BASELINE_TERMS if name != "dist"}
        | {"knowledge_distillation": "auto"},
        balanced_every=2,
        ema_decay=0.5,
    )
    assert trainer.accelerator.num_processes == processes
    trainer.add_callback(Recorder(Path(output_dir), stop, Path(leader) if leader else None))
    trainer.train(resume_from_checkpoint=True)
    trainer.save_model()
    trainer.save_state()


def with_unlabelled(output_dir: str, stop: int, leader: str | None = None) -> None:
    """The same beside images without masks, of which a process has more than another."""
    as_one(output_dir, stop, leader, unlabelled=True)


def each_with_its_statistics(output_dir: str, stop: int) -> None:
    """One process of a run in which BatchNorm takes its own, and of evaluations; writes what every process finds."""
    trainer = ka_trainer(output_dir, per_device_train_batch_size=2, max_steps=2, ddp_backend="gloo")
    trainer.train()
    scores = [
        trainer.evaluate(make_dataset(4, seed=3))["eval_loss"],
        *(score_of_a_stream(output_dir, n) for n in STREAMS),
    ]
    trainer.save_model()
    rank = trainer.args.process_index
    save_file(trainer.autoencoder.encoder.state_dict(), Path(output_dir) / f"encoder-{rank}.safetensors")
    (Path(output_dir) / f"scores-{rank}.json").write_text(json.dumps(scores))


def score_of_a_stream(output_dir: str, images: int) -> dict[str, float]:
    """Evaluates so many streamed images, of different sizes, on as many processes as there are."""
    data = make_dataset(images, seed=3)
    sizes = iter([(24 + 4 * index, 32) for index in range(images)])

    def resized(sample: dict) -> dict:
        size = next(sizes)
        return {**sample, "image": sample["image"].resize(size), "label": sample["label"].resize(size, 0)}

    stream = data.map(resized, keep_in_memory=True, load_from_cache_file=False).to_iterable_dataset()
    backend = "gloo" if int(os.environ.get("WORLD_SIZE", 1)) > 1 else None
    args = SegmentationConfig(**arguments(output_dir, ddp_backend=backend))
    trainer = SegmentationTrainer(make_model(), args, eval_dataset=stream)
    metrics = trainer.evaluate()
    assert trainer.predict(stream).metrics["test_loss"] == pytest.approx(metrics["eval_loss"], rel=1e-6)
    matrix = trainer.accelerator.reduce(trainer.confusion_matrix.matrix, reduction="sum")
    return {"pixels": int(matrix.sum()), "loss": metrics["eval_loss"], "mean_iou": metrics["eval_mean_iou"]}


def _launch(
    processes: int,
    output_dir: Path,
    number: int = 0,
    job: str = "as_one",
    survives: bool = True,
    leader: Path | None = None,
) -> None:
    output_dir.mkdir(exist_ok=True)
    arguments = [str(output_dir), number] + ([] if leader is None else [str(leader)])
    codes, printed = Jobs(__file__).run(job, *arguments, processes=processes)
    assert survives != any(codes), printed


def _logs(folder: Path) -> list[dict[str, float]]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "loss" in entry]


@pytest.fixture(scope="module", params=["as_one", "with_unlabelled"])
def runs(tmp_path_factory, request) -> dict[int, Path]:
    """A finished run by its number of processes; that of one process does each step from the weights of the other."""
    folder = tmp_path_factory.mktemp("processes")
    _launch(2, folder / "2", job=request.param)
    _launch(1, folder / "1", job=request.param, leader=folder / "2")
    return {processes: folder / str(processes) for processes in (1, 2)}


@pytest.mark.slow
def test_losses_gradients_and_weights_are_those_of_one_process(runs) -> None:
    def both(name: str) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        one, two = (load_file(runs[processes] / name) for processes in (1, 2))
        assert one.keys() == two.keys()
        yield from ((key, value, two[key]) for key, value in one.items())

    for stage, steps, count in (("autoencoder", 3, 3), (".", STEPS, 3 + len(BASELINE_TERMS))):  # a weight, too
        one, two = (_logs(runs[processes] / stage) for processes in (1, 2))
        assert len(one) == len(two) == steps
        terms = {key for key in one[0] if "/" in key}
        assert len(terms) == count
        for first, second in zip(one, two, strict=True):
            for key in ("loss", *terms):
                assert second[key] == pytest.approx(first[key], rel=2e-4, abs=1e-5), key
    assert any(name.startswith("terms.hint") for name, *_ in both("gradients-0.safetensors"))
    for step in range(STEPS):
        for name, gradient, other in both(f"gradients-{step}.safetensors"):
            assert (other - gradient).norm() <= 2e-3 * gradient.norm() + 1e-6, (step, name)
    # After each step, as each begins with equal weights, and in what is saved.
    for file in (*(f"weights-{step}.safetensors" for step in range(STEPS)), *WEIGHTS):
        for _, value, other in both(file):
            torch.testing.assert_close(other, value, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("runs", ["as_one"], indirect=True)
def test_a_killed_run_of_two_processes_goes_on_exactly(runs, tmp_path) -> None:
    _launch(2, tmp_path, number=3, survives=False)
    assert not (tmp_path / "model.safetensors").exists() and (tmp_path / "checkpoint-2").is_dir()
    _launch(2, tmp_path)
    for name in WEIGHTS:
        assert states_equal(load_file(runs[2] / name), load_file(tmp_path / name)), name


@pytest.mark.slow
def test_all_processes_teach_and_score_with_what_is_saved_and_each_image_of_a_stream_once(tmp_path) -> None:
    _launch(2, tmp_path, job="each_with_its_statistics")
    saved = load_file(tmp_path / "autoencoder" / "model.safetensors")
    scorer = seg_trainer(tmp_path, KASegModel.from_pretrained(tmp_path), evaluation=make_dataset(4, seed=3))
    loss, streams = scorer.evaluate()["eval_loss"], [score_of_a_stream(str(tmp_path), images) for images in STREAMS]
    for rank in (0, 1):
        encoder = load_file(tmp_path / f"encoder-{rank}.safetensors")
        assert any("running_mean" in name for name in encoder)
        assert all(torch.equal(tensor, saved[f"encoder.{name}"]) for name, tensor in encoder.items()), rank
        found, *others = json.loads((tmp_path / f"scores-{rank}.json").read_text())
        assert found == pytest.approx(loss, rel=1e-5)
        for one, own in zip(streams, others, strict=True):
            assert one["pixels"] > 0 and own == {**one, "loss": pytest.approx(one["loss"], rel=1e-6)}
