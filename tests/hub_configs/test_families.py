"""The recipes of whole families: every model of them is built, and one of each kind trains a step."""

import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from toy import arguments

from kaseg import KASegConfig, KASegImageProcessor, KASegModel, checkpoints
from kaseg.cli.compare import read_comparison
from kaseg.data import SPECS
from kaseg.experiments.comparison import ADAPTED_PARTS, PLAIN_PARTS, Run
from kaseg.experiments.planned import planned_models
from kaseg.experiments.recipe import build_arguments
from kaseg.experiments.run import build_model
from kaseg.trainer import KnowledgeAdaptationTrainer, SegmentationTrainer

HUB_CONFIGS = Path(__file__).resolve().parents[2] / "hub_configs"
# The families of the paper and their data.
PAPER = {"voc": "voc2012", "cityscapes": "cityscapes", "context": "pascal_context"}
FAMILIES = [file.stem for file in sorted(HUB_CONFIGS.glob("*.yaml"))]
# Parameters with 21 classes, and GFLOPs at 513x513: the students' are those of the paper's Figure 1 (He et al. 2019),
# the teachers' were counted here.
COST = {
    ("mobilenetv2_100", 32): (2_113_557, 3.23),
    ("mobilenetv2_100", 16): (2_113_557, 5.50),
    ("mobilenetv2_100", 8): (2_113_557, 17.70),
    ("mobilenetv2_100", 4): (2_113_557, 67.03),
    ("resnet50", 16): (26_696_133, 79.10),
    ("xception41", 16): (28_108_661, 80.02),
}
CROP = 65


def runs_of(family: str) -> list[Run]:
    return read_comparison(HUB_CONFIGS / f"{family}.yaml").runs("runs")


def test_folders_hold_weights_and_families_are_listed() -> None:
    folders = {f"{checkpoints.NAMESPACE}/{path.name}" for path in HUB_CONFIGS.iterdir() if path.is_dir()}
    assert folders == set(checkpoints.list_models())
    assert [file.stem for file in checkpoints.list_families()] == FAMILIES
    assert {*PAPER, "camvid"} <= set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_recipe_has_values_that_its_trainer_takes(family: str) -> None:
    # Runs of one recipe differ in their seeds alone.
    for run in {run.name.partition("/seed-")[0]: run for run in runs_of(family)}.values():
        parts = build_arguments(ADAPTED_PARTS if run.distils else PLAIN_PARTS, {**run.fields, "output_dir": "out"})
        assert parts[1].dataset in SPECS


@pytest.mark.parametrize("family", PAPER)
def test_the_models_of_the_paper(family: str) -> None:
    """Two strides fewer or another step count would be another experiment."""
    runs = {run.name: run for run in runs_of(family)}
    names = {f"os{stride}/{kind}/seed-1" for stride in (4, 8, 16, 32) for kind in ("plain", "adapted")}
    assert set(runs) == {"teacher", *names}
    assert {run.fields["dataset"] for run in runs.values()} == {PAPER[family]}
    assert {run.fields["max_steps"] for run in runs.values()} == {90_000 if family == "cityscapes" else 30_000}
    for name, run in runs.items():
        assert run.distils == ("/adapted/" in name)
        if run.distils:
            assert (run.fields["adaptation_weight"], run.fields["affinity_weight"]) == (50.0, 1.0)
            assert run.fields["teacher"] == "runs/teacher"
    # Every value has its origin.
    text = (HUB_CONFIGS / f"{family}.yaml").read_text()
    fields = [line for line in text.splitlines() if ": " in line and not line.startswith("#")]
    read = read_comparison(HUB_CONFIGS / f"{family}.yaml")
    sections = (read.recipe, read.teacher, read.students, read.objectives["adapted"], ("seeds",))
    assert len(fields) == sum(map(len, sections))
    for line in fields:
        assert any(word in line.partition("#")[2] for word in ("paper", "ours", "as ")), line


def test_parameters_and_gflops() -> None:
    planned = planned_models(HUB_CONFIGS / "voc.yaml")
    assert set(planned) == {"teacher", "os4", "os8", "os16", "os32"}
    for config, facts in planned.values():
        parameters, gflops = COST[config.backbone, config.output_stride]
        assert facts["parameters"] == parameters
        assert facts["gflops_513x513"] == pytest.approx(gflops, rel=0.01)


@pytest.mark.parametrize("family", sorted(PAPER.keys() - {"voc"}))
def test_other_classes_cost_other_parameters(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaseg.evaluation.cost.gflops", lambda model: 0.0)  # counted above: the networks are the same
    more_classes = SPECS[PAPER[family]].label_space.num_labels - 21
    for config, facts in planned_models(HUB_CONFIGS / f"{family}.yaml").values():
        assert facts["parameters"] == COST[config.backbone, config.output_stride][0] + 257 * more_classes


def test_classes_of_a_file_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("kaseg.evaluation.cost.gflops", lambda model: 0.0)
    root = tmp_path / "hub_configs"
    root.mkdir()
    (root / "classes.txt").write_text("ground\nanimal\n")
    recipe = {"dataset": "voc2012", "label_space": "hub_configs/classes.txt"}
    (root / "family.yaml").write_text(yaml.safe_dump({"recipe": recipe, "objectives": {"plain": None}}))
    config, facts = planned_models(root / "family.yaml")["student"]  # wherever the command is called
    assert config.id2label == {0: "ground", 1: "animal"}
    assert facts["parameters"] == COST["mobilenetv2_100", 16][0] - 19 * 257


def test_the_other_teacher_of_the_paper(tmp_path: Path) -> None:
    """`--only teacher --set backbone=xception41` trains it, as the header says."""
    sections = yaml.safe_load((HUB_CONFIGS / "voc.yaml").read_text())
    sections["teacher"]["backbone"] = "xception41"
    sections["students"] = {"os16": {"output_stride": 16}}
    (tmp_path / "family.yaml").write_text(yaml.safe_dump(sections))
    config, facts = planned_models(tmp_path / "family.yaml")["teacher"]
    assert (config.backbone, config.head) == ("xception41", "deeplabv3plus")
    parameters, gflops = COST["xception41", 16]
    assert facts["parameters"] == parameters and facts["gflops_513x513"] == pytest.approx(gflops, rel=0.01)


@pytest.fixture(scope="module")
def data() -> datasets.Dataset:
    rng = np.random.default_rng(0)
    draw = {"image": (256, (CROP, CROP, 3)), "label": (19, (CROP, CROP))}
    rows = [
        {name: Image.fromarray(rng.integers(0, high, size, dtype=np.uint8)) for name, (high, size) in draw.items()}
        for _ in range(2)
    ]
    return datasets.Dataset.from_list(rows)


def make_trainer(run: Run, data: Any, output_dir: Path) -> SegmentationTrainer:
    """A trainer by the committed recipe, cut to one step of two small crops from random weights."""
    small = arguments(output_dir, per_device_train_batch_size=2, crop_size=[CROP, CROP], max_steps=1)
    del small["learning_rate"]
    if run.distils:
        small |= {"autoencoder_epochs": 0.0, "autoencoder_max_steps": 1}
    fields = {**run.fields, **small, "pretrained_backbone": False}
    parts = build_arguments(ADAPTED_PARTS if run.distils else PLAIN_PARTS, fields)
    model = build_model(parts[0], SPECS[parts[1].dataset].label_space, seed=1)
    kwargs = {"model": model, "args": parts[-1], "train_dataset": data, "processing_class": KASegImageProcessor()}
    if not run.distils:
        return SegmentationTrainer(**kwargs)
    # In place of the real one: the recipe of an adapted student is tested, not ResNet-50.
    teacher = KASegModel(KASegConfig(backbone="test_resnet", head="deeplabv3plus", num_labels=21))
    return KnowledgeAdaptationTrainer(teacher=teacher, **kwargs)


@pytest.mark.parametrize("name", ["teacher", "os16/plain/seed-1", "os16/adapted/seed-1"])
def test_one_step_of_the_recipe(name: str, data, tmp_path) -> None:
    (run,) = (run for run in runs_of("voc") if run.name == name)
    trainer = make_trainer(run, data, tmp_path)
    model = trainer.segmentation_model
    for field in ("backbone", "output_stride", "head", "classifier_dropout_prob"):
        assert getattr(model.config, field) == run.fields[field]
    before = {key: tensor.clone() for key, tensor in model.named_parameters()}
    trainer.train()
    assert trainer.state.global_step == 1 and math.isfinite(trainer.state.log_history[-1]["train_loss"])
    moved = [key for key, tensor in model.named_parameters() if not torch.equal(tensor, before[key])]
    assert "classifier.weight" in moved and any(key.startswith("encoder.") for key in moved)
