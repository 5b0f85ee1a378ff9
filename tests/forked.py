"""Jobs in processes of their own that need not import torch again, for tests of distributed and of killed runs.

One process imports test files and computes nothing; each job is forked from it. (Forked from the tests' own process, a
job could not train: autograd's threads do not survive a fork.)
"""

import atexit
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
# By their number of threads.
_processes: dict[int, subprocess.Popen] = {}


class Jobs:
    """Runs functions of a test file in new processes.

    Args:
        file: The test file; its functions are the jobs.
        threads: Threads of each process.
    """

    def __init__(self, file: str, threads: int = 1) -> None:
        self.file = file
        if threads not in _processes:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
            environment |= {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
            _processes[threads] = subprocess.Popen(
                [sys.executable, str(Path(__file__))],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            atexit.register(_end, _processes[threads])
        self.process = _processes[threads]

    def run(self, job: str, *arguments: Any, processes: int = 1) -> tuple[list[int], str]:
        """Run a job in so many processes, which are told of each other as torchrun tells its own.

        Returns:
            Their exit codes, negative where a signal ended them, and what they printed.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps([self.file, job, arguments, processes]), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        assert answer, f"{self.process.args} has ended"
        codes, printed = json.loads(answer)
        return codes, printed


def _end(process: subprocess.Popen) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait(timeout=60)


def _fork(job: Any, arguments: list[Any], environment: dict[str, str], log: int) -> int:
    if process := os.fork():
        return process
    code = 1
    try:
        os.environ.update(environment)
        for stream in (1, 2):
            os.dup2(log, stream)
        job(*arguments)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(job: Any, arguments: list[Any], processes: int) -> tuple[list[int], str]:
    world = {}
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
        world["LOCAL_WORLD_SIZE"] = world["WORLD_SIZE"]
    log = os.memfd_create("log") if hasattr(os, "memfd_create") else os.open(os.devnull, os.O_RDWR)
    running = {}
    for rank in range(processes):
        own = {**world, "RANK": str(rank), "LOCAL_RANK": str(rank)} if world else {}
        running[_fork(job, arguments, own, log)] = rank
    codes = [0] * processes
    while running:
        process, status = os.wait()
        codes[running.pop(process)] = os.waitstatus_to_exitcode(status)
        if status:  # the others would wait for it, as torchrun knows
            for other in running:
                os.kill(other, signal.SIGKILL)
    os.lseek(log, 0, os.SEEK_SET)
    printed = os.read(log, 10**6).decode(errors="replace")
    os.close(log)
    return codes, printed


def _import(file: str) -> Any:
    """The module of a test file; two files may have one name in different folders."""
    name = Path(file).resolve().relative_to(TESTS).with_suffix("").as_posix().replace("/", "_")
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        sys.path.append(str(Path(file).parent))
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def main() -> None:
    """Does what comes in, line by line."""
    # What is printed by imports must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        file, job, arguments, processes = json.loads(line)
        print(json.dumps(_run(getattr(_import(file), job), arguments, processes)), file=answers, flush=True)
    os._exit(0)  # tearing down what was imported takes seconds


if __name__ == "__main__":
    main()
