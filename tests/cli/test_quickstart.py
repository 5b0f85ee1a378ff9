from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


def test_options_are_passed_on(kaseg: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[Path, int, int]] = []
    stub = SimpleNamespace(quickstart=lambda output_dir, seed, steps: calls.append((output_dir, seed, steps)))
    monkeypatch.setitem(sys.modules, "kaseg.experiments.quickstart", stub)
    kaseg.succeed("quickstart", "--output", tmp_path, "--seed", 3, "--steps", 20)
    kaseg.succeed("quickstart")
    assert calls == [(tmp_path, 3, 20), (Path("quickstart"), 0, 240)]
