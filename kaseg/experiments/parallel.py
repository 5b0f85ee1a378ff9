"""Several runs at a time, each in a process of its own: small students leave most of a GPU idle."""

import itertools
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_SECONDS_BETWEEN_LOOKS = 1.0


def do_in_parallel(
    tasks: Sequence[T],
    work: Callable[[T], None],
    is_ready: Callable[[T], bool],
    jobs: int,
    announce: Callable[[str], None],
    name_of: Callable[[T], str] = str,
    progress: Callable[[], object] = lambda: None,
) -> None:
    """Do all tasks, `jobs` at a time and in their order as far as they are ready. One that fails does not stop the
    others, and one that waits for what a failed one should have made is given up.

    Args:
        tasks, work: What to do (pickled), and what is called with each in a process that does one task after another.
        is_ready: Whether a task can begin; asked again while others run.
        announce: Called with a line, with the task's name (`name_of`), when it begins, ends or fails.
        progress: Called after each task, failed ones too.

    Raises:
        ChildProcessError: tasks failed, which the message names with their errors, or a process was killed.
    """
    waiting = list(tasks)
    failed: dict[str, str] = {}
    running: dict[Future[None], T] = {}
    # A process that was forked could not use the GPU.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_end_with_the_parent) as pool:
        while waiting or running:
            for task in list(itertools.islice(filter(is_ready, waiting), jobs - len(running))):
                waiting.remove(task)
                announce(f"{len(tasks) - len(waiting)}/{len(tasks)} {name_of(task)}")
                running[pool.submit(work, task)] = task
            if not running:
                failed |= {name_of(task): "not begun, as what it needs was not made" for task in waiting}
                break
            for future in wait(running, _SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED).done:
                task, error = running.pop(future), future.exception()
                if isinstance(error, BrokenProcessPool):
                    raise ChildProcessError(
                        f"A process was killed, perhaps for lack of memory (jobs={jobs}). The same command goes on "
                        "with what is not done."
                    ) from None
                announce(f"{name_of(task)}: {'done' if error is None else 'failed'}")
                progress()
                if error is not None:
                    failed[name_of(task)] = str(error)
    if failed:
        lines = (f"- {name}: {error}" for name, error in failed.items())
        raise ChildProcessError("\n".join([f"{len(failed)} of {len(tasks)} failed:", *lines]))


def _end_with_the_parent() -> None:
    """A process whose parent was killed would go on with a run that the same command, given again, begins as well."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def in_worker(work: Callable[[], object], log_file: Path, jobs: int) -> None:
    """Do one task of [`do_in_parallel`] in its process, with its share of the processor's threads; what it prints goes
    to the end of a file. What goes wrong is a RuntimeError, in words: others may not survive the way to the parent."""
    import torch  # processes that wait for a task start without it

    log_file.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with log_file.open("a") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(1, min(torch.get_num_threads(), threads // jobs)))
    try:
        work()
    except Exception as error:
        traceback.print_exc()
        raise RuntimeError(f"{type(error).__name__}: {error} (all of it in {log_file})") from None
