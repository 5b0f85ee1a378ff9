"""The C library's memory allocator, set for tensors."""

import ctypes
import os
import platform

# mallopt's parameters, from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Lets this process keep the memory that it frees, to use it again, where the C library is glibc (Linux).

    By itself glibc gives large blocks, which the maps of a network are, back to the system at once, which then clears
    and maps every page of every map again and again; `docs/benchmarks.md` says what that costs on a CPU. In return the
    process stays as large as it once was. The `kaseg` command calls this; a script may do so before its first tensor,
    or set `MALLOC_MMAP_MAX_`, `MALLOC_TRIM_THRESHOLD_` and `MALLOC_ARENA_MAX` in the environment. Our choice; see
    mallopt(3).

    Returns:
        Whether anything was changed: not with another C library, nor where the environment sets the allocator already.
    """
    set_by_user = "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ)
    if set_by_user or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # No block is mapped by itself (a larger threshold would say the same, but older versions refuse it), the heap is
    # never cut, and threads share one heap, since only the first can grow without end.
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _LARGEST, _M_ARENA_MAX: 1}
    return all(mallopt(parameter, value) == 1 for parameter, value in settings.items())
