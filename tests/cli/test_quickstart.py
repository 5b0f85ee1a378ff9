import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


def test_options_are_passed_on(kaseg: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[Path, int, int]] = []
    stub = SimpleNamespace(quickstart=lambda *arguments: calls.append(arguments))
    monkeypatch.setitem(sys.modules, "kaseg.experiments.quickstart", stub)
    kaseg.succeed("quickstart", "--output", tmp_path, "--seed", 3, "--steps", 20, "--pairs", 2)
    kaseg.succeed("quickstart")
    assert calls == [(tmp_path, 3, 20, 2), (Path("quickstart"), 0, 120, 1)]
