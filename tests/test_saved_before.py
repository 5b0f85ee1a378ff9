"""What earlier versions wrote must keep loading: tests/saved_before/ holds the text files of one of their runs.

It was written by `kaseg distill` at commit d58d150, with tensors by name and shape in place of the weights.
"""

import inspect
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from kaseg import KASegConfig, KASegImageProcessor, KASegModel, KnowledgeAdaptationConfig
from kaseg.distillation import FeatureAutoencoder, FeatureAutoencoderConfig
from kaseg.distillation.balance import GradientBalance
from kaseg.distillation.map_shape import MapShape
from kaseg.distillation.student_with_adapters import StudentWithAdapters, student_map_shapes
from kaseg.distillation.terms import build_terms
from kaseg.experiments.recipe import build_arguments
from kaseg.trainer.fingerprint import check_resume, fingerprint

SAVED = Path(__file__).parent / "saved_before"
TENSORS = json.loads((SAVED / "tensors.json").read_text())


def shapes(tensors: dict[str, torch.Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


@pytest.fixture
def model() -> KASegModel:
    return KASegModel(KASegConfig.from_pretrained(SAVED))


@pytest.fixture
def args(tmp_path: Path) -> KnowledgeAdaptationConfig:
    recipe = yaml.safe_load((SAVED / "recipe.yaml").read_text())
    (args,) = build_arguments((KnowledgeAdaptationConfig,), {**recipe, "output_dir": str(tmp_path)})
    return args


def test_the_config_and_the_processor(model: KASegModel) -> None:
    assert shapes(model.state_dict()) == TENSORS["model.safetensors"]
    stored = json.loads((SAVED / "config.json").read_text())
    kept = json.loads(model.config.to_json_string(use_diff=False))
    ours = stored.keys() & {*inspect.signature(KASegConfig.__init__).parameters, "id2label", "label2id", "model_type"}
    assert len(ours) > 15 and {name: kept[name] for name in ours} == {name: stored[name] for name in ours}
    stored = json.loads((SAVED / "preprocessor_config.json").read_text())
    kept = json.loads(KASegImageProcessor.from_pretrained(SAVED).to_json_string())
    assert stored.items() <= kept.items()


def test_the_autoencoder_and_the_adapters(model: KASegModel, args: KnowledgeAdaptationConfig) -> None:
    autoencoder = FeatureAutoencoder(FeatureAutoencoderConfig.from_pretrained(SAVED / "autoencoder"))
    assert shapes(autoencoder.state_dict()) == TENSORS["autoencoder/model.safetensors"]
    features = MapShape(autoencoder.config.in_channels, 32)
    teacher = {
        "features": features,
        "code": MapShape(autoencoder.config.latent_channels, 32),
        "logits": MapShape(1, 32),
    }
    terms = build_terms(args.term_settings, student_map_shapes(model, args.student_tap), teacher)
    composite = StudentWithAdapters(model, terms, args.student_tap, balance=GradientBalance(args.balanced_shares))
    assert shapes(composite.adapter_state_dict()) == TENSORS["adapters.safetensors"]


def test_a_checkpoint_is_one_of_the_same_run(model: KASegModel, args: KnowledgeAdaptationConfig) -> None:
    state = json.loads((SAVED / "checkpoint-2" / "trainer_state.json").read_text())
    written = state["stateful_callbacks"]["RecipeFingerprint"]["args"]["recipe"]
    own = fingerprint(args, model.config, range(4)) | {"teacher": written["teacher"]}
    check_resume(SAVED / "checkpoint-2", own, was_named=False, instead="")
    with pytest.raises(ValueError, match="differs in mix"):
        check_resume(SAVED / "checkpoint-2", {**own, "mix": "cutmix"}, was_named=False, instead="")


def test_the_finished_run_is_read_by_its_recipe(kaseg, tmp_path: Path) -> None:
    folder = shutil.copytree(SAVED, tmp_path / "student")
    output = kaseg.succeed("distill", "--config", folder / "recipe.yaml", "--output-dir", folder).output
    scores = json.loads((SAVED / "results.json").read_text())
    assert "This run was finished before" in output and f"{100 * scores['per_category_iou']['car']:.2f}" in output
