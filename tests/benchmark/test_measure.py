from __future__ import annotations

import time
from pathlib import Path

from kaseg.benchmark.measure import milliseconds, peak_memory


def test_runs_take_turns_and_warm_ups_do_not_count() -> None:
    order: list[str] = []

    def slow() -> None:
        order.append("slow")
        time.sleep(0.02)

    times = milliseconds({"slow": slow, "quick": lambda: order.append("quick")}, repeats=2)
    assert order == ["slow", "quick"] * 5
    assert len(times["slow"]) == len(times["quick"]) == 2
    assert min(times["slow"]) >= 20 > max(times["quick"])


def test_memory_grows_with_the_image(tmp_path: Path) -> None:
    small, large = (
        peak_memory("kaseg:backbone=mobilenetv2_035", "eager", size, tmp_path, 1) for size in ((64, 64), (1024, 1024))
    )
    # The first map of the trunk alone, 512x512 of 16 channels and its expansion, has 16 MiB.
    assert 0 < small < large - 16
