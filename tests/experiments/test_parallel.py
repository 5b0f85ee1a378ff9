from __future__ import annotations

import os
from pathlib import Path

import pytest

from kaseg.experiments.parallel import do_in_parallel


def _make(folders: list[Path]) -> list[str]:
    """Make folders, each once its parent is there."""
    lines: list[str] = []
    do_in_parallel(
        folders, os.mkdir, lambda folder: folder.parent.is_dir(), 2, lines.append, lambda folder: folder.name
    )
    return lines


def test_tasks_wait_for_what_they_need_and_are_begun_in_order(tmp_path) -> None:
    root = tmp_path / "root"
    lines = _make([root / "leaf", root, root / "twin"])
    assert (root / "leaf").is_dir() and (root / "twin").is_dir()
    assert lines[:2] == ["1/3 root", "root: done"]
    assert sorted(lines[2:]) == ["2/3 leaf", "3/3 twin", "leaf: done", "twin: done"]
    assert lines.index("2/3 leaf") < lines.index("3/3 twin")


def test_a_failure_stops_nothing_but_what_needs_it(tmp_path) -> None:
    (tmp_path / "there").mkdir()
    folders = [tmp_path / "there", tmp_path / "new", tmp_path / "missing" / "leaf"]
    with pytest.raises(ChildProcessError) as error:
        _make(folders)
    assert (tmp_path / "new").is_dir()
    first, *others = str(error.value).splitlines()
    assert first == "2 of 3 failed:"
    assert "- there: " in others[0] and "exists" in others[0]
    assert others[1] == "- leaf: not begun, as what it needs was not made"


def test_a_killed_process_is_an_error_that_says_so() -> None:
    # Any function of the standard library that takes a number and ends the process.
    with pytest.raises(ChildProcessError, match=r"A process was killed.*jobs=2.*same command"):
        do_in_parallel([9, 9], os._exit, lambda code: True, 2, lambda line: None)
