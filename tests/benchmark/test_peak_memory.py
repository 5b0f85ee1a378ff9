import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

from kaseg.benchmark.peak_memory import peak_memory


def test_memory_grows_with_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process, which takes seconds to start: the second figure is what the second image adds to the first."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        monkeypatch.setattr("kaseg.benchmark.peak_memory.ProcessPoolExecutor", lambda *_, **__: nullcontext(pool))
        small, more = (
            peak_memory("kaseg:backbone=mobilenetv2_035", "eager", size, tmp_path, 1)
            for size in ((64, 64), (1024, 1024))
        )
    # The first map of the trunk alone, 512x512 of 16 channels and its expansion, has 16 MiB.
    assert small > 0 and more > 16
