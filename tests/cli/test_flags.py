import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import HfArgumentParser, TrainingArguments
from typer.testing import CliRunner

from kaseg.cli.flags import TRAINER_PANEL, build_app, build_arguments, normalize_flags, options_of
from kaseg.experiments.recipe import DataArguments, ModelArguments, TeacherArguments
from kaseg.experiments.run import recipe_of
from kaseg.trainer import KnowledgeAdaptationConfig, SegmentationConfig

PARTS = (ModelArguments, DataArguments, TeacherArguments, KnowledgeAdaptationConfig)


def test_every_field_is_an_option_once() -> None:
    names = [item.name for part in PARTS for item in dataclasses.fields(part) if item.init]
    assert len(names) == len(set(names))
    # The first has --resume in its place, the second is an object that cannot be written down.
    assert set(names) - set(options_of(PARTS)) == {"resume_from_checkpoint", "parallelism_config"}


def test_own_fields_come_first_in_documented_groups() -> None:
    options = options_of(PARTS)
    panels = list(dict.fromkeys(option.panel for option in options.values()))
    assert panels[:4] == ["Model", "Data", "Teacher", "Objective"]
    assert panels[-1] == TRAINER_PANEL
    assert {options[name].panel for name in ("latent_channels", "sparsity_weight")} == {"Autoencoder"}
    assert {options[name].panel for name in ("crop_size", "max_scale", "hue")} == {"Augmentation"}
    # A class name as a title means that no group begins before the field.
    assert not {"SegmentationConfig", "KnowledgeAdaptationConfig"} & set(panels)
    inherited = set(TrainingArguments.__dataclass_fields__)
    assert all(name in inherited for name, option in options.items() if option.panel == TRAINER_PANEL)
    assert all(option.help for name, option in options.items() if not option.hidden)


def test_transformers_own_parser_takes_our_fields(tmp_path: Path) -> None:
    # It hands a field's metadata to argparse, which refuses what it does not know.
    parser = HfArgumentParser((KnowledgeAdaptationConfig,))
    (args,) = parser.parse_args_into_dataclasses(["--output_dir", str(tmp_path), "--use_cpu", "true"])
    assert args.crop_size == [513, 513]


def collect(*flags: str) -> tuple[list[Any], bool]:
    """What a command over all parts is called with."""
    calls = []
    app = build_app(PARTS, lambda *parts, resume: calls.append((list(parts), resume)), "Test.", elsewhere={})
    result = CliRunner(env={"COLUMNS": "400"}).invoke(app, normalize_flags(flags))
    assert result.exit_code == 0, (result.output, result.exception)
    return calls[0]


def test_nothing_given_is_the_defaults(tmp_path: Path) -> None:
    parts, resume = collect("--output-dir", str(tmp_path))
    assert resume
    assert parts[:3] == [ModelArguments(), DataArguments(), TeacherArguments()]
    assert recipe_of(*parts) == recipe_of(ModelArguments(), KnowledgeAdaptationConfig(output_dir=str(tmp_path)))


def test_flags_override_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "learning_rate: 1e-3\nsave_total_limit: 5\ncrop_size: 100\nlogging_first_step: true\nweight_decay: 4e-5\n"
        "eval_strategy: no\nfreeze_batch_norm: true\nteacher: a/b\nmax_steps: 10\nreport_to: none\n"
    )
    flags = ["--crop_size", "336,448", "--save-total-limit", "null", "--no-freeze_batch_norm", "--max-steps=20"]
    flags += ["--lr-scheduler-kwargs", "{power: 0.5}", "--class-weights", "1", "--class-weights=2.5"]
    (model_args, _, teacher_args, args), resume = collect(
        "--config", str(recipe), *flags, "--output-dir", str(tmp_path), "--no-resume"
    )
    assert not resume
    assert (args.learning_rate, args.weight_decay, args.max_steps) == (0.001, 4e-5, 20)
    assert (args.crop_size, args.save_total_limit, args.logging_first_step) == ([336, 448], None, True)
    assert (model_args.freeze_batch_norm, teacher_args.teacher) == (False, "a/b")
    assert (args.lr_scheduler_kwargs, args.class_weights) == ({"power": 0.5}, [1.0, 2.5])
    assert args.eval_strategy == "no"


def test_a_written_recipe_gives_the_same_run(tmp_path: Path) -> None:
    args = SegmentationConfig(
        output_dir=str(tmp_path),
        eval_strategy="steps",
        eval_steps=7,
        learning_rate=1e-5,
        optim="adamw_torch",
        class_weights=[1.0, 2.5],
        lr_scheduler_type="cosine",
        lr_scheduler_kwargs=None,
        num_train_epochs=2,
    )
    first = recipe_of(ModelArguments(head="deeplabv3plus"), DataArguments(dataset="camvid"), args)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(first))
    (model_args, data_args, _, again), _ = collect("--config", str(recipe), "--output-dir", str(tmp_path))
    assert recipe_of(model_args, data_args, again) == first


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output-stride", "big"], "Invalid value for --output-stride: expected INT, got 'big'"),
        (["--crop-size", "1,x"], "Invalid value for --crop-size"),
        (["--bf16", "--no-bf16"], "--bf16 and --no-bf16 exclude each other"),
        (["--leraning-rate", "1"], "--learning-rate"),
    ],
)
def test_usage_errors(flags: list[str], message: str) -> None:
    app = build_app(PARTS, lambda *parts, resume: None, "Test.", elsewhere={})
    result = CliRunner(env={"COLUMNS": "400"}).invoke(app, flags)
    assert result.exit_code == 2
    assert message in result.output


def test_arguments_keep_their_defaults() -> None:
    (model_args,) = build_arguments([ModelArguments], {"backbone": "resnet18", "dataset": "elsewhere"})
    assert model_args == ModelArguments(backbone="resnet18")


def test_losses_with_options_survive_flags_and_recipes(tmp_path: Path) -> None:
    flag = '{"channel_wise": 3, "knowledge_distillation": {"weight": 1e0, "temperature": 2}}'
    expected = {"channel_wise": {"weight": 3.0}, "knowledge_distillation": {"weight": 1.0, "temperature": 2.0}}
    parts, _ = collect("--output-dir", str(tmp_path), "--distillation-losses", flag)
    assert parts[-1].distillation_losses == expected
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_of(*parts)))
    again, _ = collect("--config", str(recipe))
    assert again[-1].distillation_losses == expected and recipe_of(*again) == recipe_of(*parts)
