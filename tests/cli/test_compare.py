from pathlib import Path

import pytest
import typer

from kaseg.cli.compare import read_comparison
from kaseg.distillation.terms import BASELINE_TERMS
from kaseg.experiments.comparison import _arguments
from kaseg.model_card.settings import loss_weights

HUB_CONFIGS = Path(__file__).resolve().parents[2] / "hub_configs"

FILE = """
recipe:
  dataset: scenes
  learning_rate: 1e-3
  crop_size: 64
teacher:
  head: deeplabv3plus
students:
  os32: {output_stride: 32}
objectives:
  plain:
  adapted: {adaptation_weight: 10}
seeds: [1, 2]
"""


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "family.yaml"
    path.write_text(text)
    return path


def test_sections_become_typed_fields(tmp_path) -> None:
    comparison = read_comparison(_write(tmp_path, FILE))
    # YAML itself reads 1e-3 as text.
    assert comparison.recipe["learning_rate"] == 0.001
    assert comparison.objectives == {"plain": None, "adapted": {"adaptation_weight": 10.0}}
    assert comparison.students == {"os32": {"output_stride": 32}} and comparison.seeds == [1, 2]
    assert comparison.teacher == {"head": "deeplabv3plus"}


def test_what_is_left_out_has_defaults(tmp_path) -> None:
    comparison = read_comparison(_write(tmp_path, "recipe: {}\nobjectives: {plain: }\n"))
    assert list(comparison.students) == ["student"] and comparison.seeds == (1,) and comparison.teacher is None


@pytest.mark.parametrize("file", sorted(HUB_CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_families_that_we_ship_can_be_run(file: Path, tmp_path) -> None:
    runs = read_comparison(file).runs(tmp_path)
    for run in runs:
        _, _, *rest = _arguments(run, tmp_path, {"use_cpu": True})
        terms = {name: weight for name, weight in loss_weights(vars(rest[-1])).items() if name != "cross_entropy"}
        assert bool(terms) == run.distils, run.name
    if file.stem == "camvid":
        entries = [entry for run in runs for entry in run.fields.get("distillation_losses", {}).items()]
        of = {options.get("loss", name) if isinstance(options, dict) else name for name, options in entries}
        assert of == set(BASELINE_TERMS)


@pytest.mark.parametrize(
    "text, error, message",
    [
        ("recipe: {}\n", typer.BadParameter, "'objectives' is missing"),
        ("recipe: 3\nobjectives: {plain: }\n", typer.BadParameter, "recipe: expected fields and their values, got 3"),
        ("recipe:\nobjectives: {plain: 3}\n", typer.BadParameter, "objectives: plain: expected fields.*got 3"),
        (FILE.replace("[1, 2]", "1"), typer.BadParameter, "seeds: expected a list of whole numbers, got 1"),
        ("- 1\n", typer.BadParameter, "must hold 'field: value' lines, found a list"),
        (FILE + "seed: 3\n", typer.BadParameter, "unknown key 'seed'.*seeds"),
        (FILE.replace("1e-3", "fast"), typer.BadParameter, "fast"),
        (FILE.replace("head:", "haed:"), typer.BadParameter, "teacher: unknown field 'haed'.*head"),
    ],
)
def test_mistakes_are_named(tmp_path, text: str, error, message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        read_comparison(_write(tmp_path, text))
    assert raised.value.param_hint == "FILE" or "fast" in text


def test_a_family_from_the_command_line(kaseg, tmp_path) -> None:
    small = "dataset: scenes\n  max_steps: 1\n  max_train_samples: 4\n  max_eval_samples: 1"
    text = FILE.replace("head: deeplabv3plus", "head: student").replace("dataset: scenes", small)
    text = text.replace("crop_size: 64", "crop_size: 64\n  backbone: test_resnet\n  pretrained_backbone: false")
    text = text.replace("adaptation_weight: 10", "latent_channels: 8, autoencoder_epochs: 0, autoencoder_max_steps: 1")
    file, output = _write(tmp_path, text.replace("[1, 2]", "[1]")), tmp_path / "out"
    common = ["compare", str(file), "--output-dir", str(output), "--examples", "0"]
    settings = ["--set", "per_device_train_batch_size=2", "--set", "use_cpu=true", "--set", "report_to=none"]
    assert "| os32 | adapted |" in kaseg.succeed(*common, *settings).output and (output / "summary.html").is_file()
    assert "| os32 | adapted |" in kaseg.succeed(*common, *settings, "--report-only").output
    assert "FIELD=VALUE" in kaseg.fail(*common, "--set", "use_cpu", code=2)
