"""A tiny run that the tests of several commands use."""

from pathlib import Path

import pytest
import yaml

TINY = {
    "backbone": "test_resnet",
    "output_stride": 32,
    "pretrained_backbone": False,
    "dataset": "scenes",
    "max_train_samples": 4,
    "max_eval_samples": 2,
    "crop_size": [64, 64],
    "per_device_train_batch_size": 2,
    "learning_rate": "1e-3",  # YAML 1.1 takes 1e-3 for text
    "save_steps": 1,
    "use_cpu": True,
    "disable_tqdm": True,
}


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture(scope="session")
def trained(kaseg, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a trained student and what its command printed."""
    folder = tmp_path_factory.mktemp("trained") / "student"
    result = kaseg.succeed("train", "--config", recipe_file, "--max_steps=2", "--output-dir", folder)
    return folder, result.output
