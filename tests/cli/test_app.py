import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from kaseg import __version__
from kaseg.cli import app, main

QUICK = """
import sys
HEAVY = ("torch", "transformers", "timm", "torchvision", "datasets", "numpy", "matplotlib")
TRAINERS = ("transformers.trainer", "transformers.modeling_utils", "torch._dynamo", "timm", "torchvision", "datasets")
from kaseg.cli import app
from typer.main import get_command
from typer.testing import CliRunner

def paths(command, path):
    children = getattr(command, "commands", {})
    return [path] + [deeper for name, child in children.items() for deeper in paths(child, [*path, name])]

# The help of these two is built from TrainingArguments.
helped = [path for path in paths(get_command(app), []) if path not in (["train"], ["distill"])]
assert len(helped) > 10, helped
completion = {"_KASEG_COMPLETE": "complete_bash", "COMP_WORDS": "kaseg ev", "COMP_CWORD": "1"}
for args, env in [(["--version"], {}), *(([*path, "--help"], {}) for path in helped), (["list"], {}), ([], completion)]:
    result = CliRunner().invoke(app, args, env=env, prog_name="kaseg")
    assert result.exit_code == 0, (args, result.output, result.exception)
    heavy = set(HEAVY) & set(sys.modules)
    assert not heavy, (args, heavy)
    # Typer's own, and half of the time of a command's help.
    assert args[-1:] != ["--help"] or "pydantic" not in sys.modules, args
assert result.output.split() == ["evaluate"], result.output
for command in ("train", "distill"):
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0, (command, result.output, result.exception)
    heavy = set(TRAINERS) & set(sys.modules)
    assert not heavy, (command, heavy)
"""


def test_help_list_and_completion_import_nothing_heavy_and_help_of_training_no_trainer() -> None:
    subprocess.run([sys.executable, "-c", QUICK], check=True, timeout=120)


def test_help_lists_the_commands(kaseg: Any) -> None:
    output = kaseg.succeed("--help").output
    for command in ("train", "distill", "evaluate", "predict", "list", "quickstart"):
        assert f" {command} " in output


def fail(*args: Any) -> None:
    error = ValueError("the reason [1] and /a/long path")
    error.add_note("while testing")
    raise error


def test_expected_errors_have_a_traceback_with_debug_alone(kaseg: Any, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "kaseg.experiments.quickstart", SimpleNamespace(quickstart=fail))
    result = kaseg("quickstart", "--output", tmp_path)
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert "Error: the reason [1] and /a/long path\nwhile testing\n" in result.output
    assert "Traceback" not in result.output
    assert isinstance(kaseg("--debug", "quickstart", "--output", tmp_path).exception, ValueError)
    result = CliRunner(env={"KASEG_DEBUG": "1"}).invoke(app, ["quickstart", "--output", str(tmp_path)])
    assert isinstance(result.exception, ValueError)


def test_bugs_are_not_hidden(kaseg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaseg.experiments.quickstart", SimpleNamespace(quickstart=lambda: None))
    assert isinstance(kaseg("quickstart").exception, TypeError)


def test_console_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["kaseg", "--version"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert capsys.readouterr().out == f"kaseg {__version__}\n"
