"""Every folder of `hub_configs/` that awaits its training: it is what the table says, and its recipe trains."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from kaseg import KASegConfig, KASegImageProcessor, KASegModel
from kaseg.data import SPECS
from kaseg.experiments.recipe import DataArguments, ModelArguments, TeacherArguments, build_arguments
from kaseg.experiments.run import build_model
from kaseg.hub.families import Member, members
from kaseg.hub.family_folders import write_family_folder
from kaseg.hub.family_recipes import recipe_lines
from kaseg.trainer import (
    KnowledgeAdaptationConfig,
    KnowledgeAdaptationTrainer,
    SegmentationConfig,
    SegmentationTrainer,
)

HUB_CONFIGS = Path(__file__).resolve().parents[2] / "hub_configs"
FAMILY = {member.name: member for member in members()}
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
CROP = 129


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All folders, written anew."""
    root = tmp_path_factory.mktemp("hub_configs")
    for member in members():
        write_family_folder(member, root / member.name)
    return root


def has_weights(name: str) -> bool:
    return (HUB_CONFIGS / name / "model.safetensors").exists()


def test_every_model_of_the_paper_is_there() -> None:
    assert len(FAMILY) == 3 * (2 + 4 * 2)
    assert {"mobilenetv2-os4-voc-ka", "mobilenetv2-os32-context-plain", "xception41-os16-cityscapes-teacher"} <= set(
        FAMILY
    )
    assert set(FAMILY) <= {folder.name for folder in HUB_CONFIGS.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILY)
def test_committed_folders_are_what_the_table_gives(written: Path, name: str) -> None:
    """If this fails: `python -m kaseg.hub.family_folders hub_configs`."""
    if has_weights(name):
        pytest.skip("trained since")
    committed = {path.name: path.read_text(encoding="utf-8") for path in (HUB_CONFIGS / name).iterdir()}
    assert committed == {path.name: path.read_text(encoding="utf-8") for path in (written / name).iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILY)
def test_parameters_and_gflops(written: Path, name: str) -> None:
    member, results = FAMILY[name], json.loads((written / name / "results.json").read_text())
    parameters, gflops = COST[member.backbone, member.output_stride]
    more_classes = SPECS[member.benchmark.dataset].label_space.num_labels - 21
    assert results["parameters"] == parameters + 257 * more_classes
    assert results["gflops_513x513"] == pytest.approx(gflops, rel=0.01)


@pytest.mark.parametrize("name", FAMILY)
def test_card_and_recipe(name: str) -> None:
    if has_weights(name):
        pytest.skip("trained since")
    member, folder = FAMILY[name], HUB_CONFIGS / name
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "other" and card.data.license_name and card.data.eval_results is None
    assert "Not trained yet" in card.text and f"--config hub_configs/{name}/recipe.yaml" in card.text
    assert ("(paper; read from its Figure 1" in card.text) == (
        member.benchmark.short == "voc" and member.kind != "teacher"
    )
    text = (folder / "recipe.yaml").read_text()
    assert yaml.safe_load(text) == {line.field: line.value for line in recipe_lines(member)}
    fields = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(any(word in line.partition("#")[2] for word in ("paper", "ours", "as ")) for line in fields)


def test_trained_folders_are_left_alone(tmp_path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match="holds a trained model"):
        write_family_folder(next(iter(FAMILY.values())), tmp_path)


@pytest.fixture(scope="module")
def data() -> datasets.Dataset:
    rng = np.random.default_rng(0)
    rows = [
        {
            "image": Image.fromarray(rng.integers(0, 256, (CROP, CROP, 3), dtype=np.uint8)),
            "label": Image.fromarray(rng.integers(0, 19, (CROP, CROP), dtype=np.uint8)),
        }
        for _ in range(2)
    ]
    return datasets.Dataset.from_list(rows)


@pytest.fixture(scope="module")
def small_teacher() -> KASegModel:
    """In place of the real one: the recipe of an adapted student is tested, not ResNet-50."""
    return KASegModel(KASegConfig(backbone="mobilenetv2_035", head="deeplabv3plus", num_labels=21))


def make_trainer(member: Member, data: Any, teacher: KASegModel, output_dir: Path) -> SegmentationTrainer:
    """A trainer by the committed recipe, cut to one step of two crops of 129 pixels from random weights."""
    recipe = yaml.safe_load((HUB_CONFIGS / member.name / "recipe.yaml").read_text()) | {
        "output_dir": str(output_dir),
        "pretrained_backbone": False,
        "per_device_train_batch_size": 2,
        "crop_size": [CROP, CROP],
        "max_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    adapts = member.kind == "ka"
    if adapts:
        recipe |= {"autoencoder_epochs": 0.0, "autoencoder_max_steps": 1}
    parts = [ModelArguments, DataArguments, *([TeacherArguments] if adapts else [])]
    parts.append(KnowledgeAdaptationConfig if adapts else SegmentationConfig)
    known = {name for part in parts for name in part.__dataclass_fields__}
    assert set(recipe) <= known, "a recipe may hold fields of its command alone"
    arguments = build_arguments(parts, recipe)
    model = build_model(arguments[0], SPECS[arguments[1].dataset].label_space, seed=1)
    kwargs = {"model": model, "args": arguments[-1], "train_dataset": data, "processing_class": KASegImageProcessor()}
    return KnowledgeAdaptationTrainer(teacher=teacher, **kwargs) if adapts else SegmentationTrainer(**kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILY)
def test_one_step_of_the_recipe(name: str, data, small_teacher, tmp_path) -> None:
    trainer = make_trainer(FAMILY[name], data, small_teacher, tmp_path)
    model = trainer.segmentation_model
    committed = json.loads((HUB_CONFIGS / name / "config.json").read_text())
    built = json.loads(model.config.to_json_string(use_diff=False))
    for field in committed.keys() - {"architectures", "dtype"}:
        assert built[field] == committed[field], field
    before = {key: tensor.clone() for key, tensor in model.named_parameters()}
    trainer.train()
    assert trainer.state.global_step == 1 and math.isfinite(trainer.state.log_history[-1]["train_loss"])
    moved = [key for key, tensor in model.named_parameters() if not torch.equal(tensor, before[key])]
    assert "classifier.weight" in moved and any(key.startswith("encoder.") for key in moved)
