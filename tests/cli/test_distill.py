from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kaseg import KASegModel


def test_distills_a_student(kaseg: Any, recipe_file: Path, trained: tuple[Path, str], tmp_path: Path) -> None:
    folder = tmp_path / "adapted"
    flags = ["--teacher", trained[0], "--max-steps", 2, "--autoencoder-epochs", 0, "--autoencoder-max-steps", 1]
    flags += ["--latent-channels", 8, "--output-dir", folder]
    output = kaseg.succeed("distill", "--config", recipe_file, *flags).output
    results = json.loads((folder / "results.json").read_text())
    assert results["steps"] == 2
    assert (results["recipe"]["latent_channels"], results["recipe"]["autoencoder_max_steps"]) == (8, 1)
    assert (folder / "autoencoder" / "config.json").is_file()
    assert KASegModel.from_pretrained(folder).config.output_stride == 32
    assert f"Model, recipe and results: {folder}" in output


def test_needs_a_teacher(kaseg: Any, recipe_file: Path, tmp_path: Path) -> None:
    result = kaseg("distill", "--config", recipe_file, "--output-dir", tmp_path)
    assert result.exit_code == 1
    assert "Error: Knowledge adaptation needs a teacher" in result.output


def test_help_groups_the_method(kaseg: Any) -> None:
    output = kaseg.succeed("distill", "--help").output
    titles = [output.index(f"─ {title} ─") for title in ("Model", "Data", "Teacher", "Objective", "Autoencoder")]
    assert titles == sorted(titles)
    assert "(paper), or auto. [default: 50.0]" in output
