import os
import platform
import subprocess
import sys

import pytest

from kaseg import cli
from kaseg.allocator import keep_freed_memory

# Page faults of four pieces of 64 MiB after three others: as it is, where the user has set the allocator, and kept.
FAULTS = """
import os, resource
from kaseg.allocator import keep_freed_memory

def faults(byte=b"a"):
    for _ in range(3):
        byte * 2**26
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        byte * 2**26
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(False, faults())
os.environ["MALLOC_ARENA_MAX"] = "2"
print(keep_freed_memory(), faults())
del os.environ["MALLOC_ARENA_MAX"]
print(keep_freed_memory(), min(faults() for _ in range(5)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_is_kept_unless_the_user_has_set_the_allocator() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=True)
    as_it_is, set_by_user, kept = (line.split() for line in done.stdout.splitlines())
    assert (as_it_is[0], set_by_user[0], kept[0]) == ("False", "False", "True")
    # The fewest of some tries: a system short of memory takes pages back, which are then faults of their own.
    assert 10 * int(kept[1]) < min(int(as_it_is[1]), int(set_by_user[1]))


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
