from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from kaseg import __version__
from kaseg.cli import app, main

HELP_IS_LIGHT = """
import sys, types
package = types.ModuleType("kaseg")  # what the package itself imports is not the command line's business
package.__path__ = [sys.argv[1]]
sys.modules["kaseg"] = package
from kaseg.cli import app
from typer.testing import CliRunner
for args in (["--help"], ["evaluate", "--help"], ["predict", "--help"], ["quickstart", "--help"], ["list"]):
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, (args, result.output, result.exception)
heavy = {"torch", "transformers", "timm", "datasets", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""


def test_help_imports_nothing_heavy() -> None:
    package = Path(sys.modules["kaseg"].__file__ or "").parent
    subprocess.run([sys.executable, "-c", HELP_IS_LIGHT, str(package)], check=True, timeout=60)


def test_help_lists_the_commands(kaseg: Any) -> None:
    output = kaseg.succeed("--help").output
    for command in ("train", "distill", "evaluate", "predict", "list", "quickstart"):
        assert f" {command} " in output


def test_version(kaseg: Any) -> None:
    assert kaseg.succeed("--version").output == f"kaseg {__version__}\n"


def fail(*args: Any) -> None:
    error = ValueError("the reason [1] and /a/long path")
    error.add_note("while testing")
    raise error


def test_expected_errors_have_no_traceback(kaseg: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "kaseg.experiments.quickstart", SimpleNamespace(quickstart=fail))
    result = kaseg("quickstart", "--output", tmp_path)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "Error: the reason [1] and /a/long path\nwhile testing\n" in result.output
    assert "Traceback" not in result.output


def test_debug_shows_the_traceback(kaseg: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "kaseg.experiments.quickstart", SimpleNamespace(quickstart=fail))
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
