import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kaseg.experiments.parallel import do_in_parallel


def _make(folders: list[Path]) -> list[str]:
    """Make folders, each once its parent is there; the progress is told after the line that says so."""
    lines: list[str] = []
    told: list[int] = []

    def progress() -> None:
        told.append(sum(line.endswith((": done", ": failed")) for line in lines))

    do_in_parallel(
        folders, os.mkdir, lambda folder: folder.parent.is_dir(), 2, lines.append, lambda folder: folder.name, progress
    )
    assert told == list(range(1, len(folders) + 1))
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


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="reads /proc to see which processes there are")
def test_processes_end_with_a_parent_that_was_killed(tmp_path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, sys, time\nfrom pathlib import Path\nfrom kaseg.experiments.parallel import do_in_parallel\n\n"
        "def work(name):\n    Path(sys.argv[1], name).write_text(str(os.getpid()))\n    time.sleep(250)\n\n"
        "if __name__ == '__main__':\n    do_in_parallel(['a', 'b'], work, lambda name: True, 2, print)\n"
    )
    parent = subprocess.Popen([sys.executable, script, tmp_path])
    files = [tmp_path / "a", tmp_path / "b"]
    assert _comes_true(lambda: all(file.is_file() and file.read_text() for file in files), 240)
    workers = [int(file.read_text()) for file in files]
    assert all(_is_alive(worker) for worker in workers)
    parent.kill()
    parent.wait()
    assert _comes_true(lambda: not any(_is_alive(worker) for worker in workers), 120)


def _comes_true(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def _is_alive(process: int) -> bool:
    try:
        # In a container nobody may collect those whose parent is gone.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_process_is_an_error_that_says_so() -> None:
    # Any function of the standard library that takes a number and ends the process.
    with pytest.raises(ChildProcessError, match=r"A process was killed.*jobs=2.*same command"):
        do_in_parallel([9, 9], os._exit, lambda code: True, 2, lambda line: None)
