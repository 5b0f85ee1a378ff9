from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from kaseg import cli
from kaseg.allocator import keep_freed_memory

FAULTS = """
import resource, sys, torch
from kaseg.allocator import keep_freed_memory
changed = keep_freed_memory() if sys.argv[1] == "keep" else False
for _ in range(3):
    torch.empty(2**24).fill_(1.0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.empty(2**24).fill_(1.0)
print(changed, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _run(choice: str, **environment: str) -> tuple[bool, int]:
    """Whether anything was changed, and page faults of four tensors of 64 MiB after three others."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", FAULTS, choice]
    done = subprocess.run(command, env=env | environment, capture_output=True, text=True, timeout=240, check=True)
    changed, faults = done.stdout.split()
    return changed == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_is_kept_unless_the_user_has_set_the_allocator() -> None:
    left_alone, kept = _run("leave"), _run("keep")
    assert not left_alone[0] and kept[0]
    assert 10 * kept[1] < left_alone[1]
    assert not _run("keep", MALLOC_ARENA_MAX="2")[0]


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()


def test_the_command_keeps_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: done.append("memory"))
    monkeypatch.setattr(cli, "app", lambda: done.append("command"))
    cli.main()
    assert done == ["memory", "command"]
