import threading
import time
from collections.abc import Iterator

import pytest

from kaseg.inference.ordered_map import ordered_map


def test_results_keep_the_order_while_several_work() -> None:
    barrier = threading.Barrier(3, timeout=30)  # passes only where three are at work at once

    def work(item: int) -> int:
        barrier.wait()
        time.sleep(0.01 * (3 - item % 3))
        return item * item

    assert list(ordered_map(work, range(12), 3)) == [item * item for item in range(12)]


def test_items_are_taken_only_as_results_are_wanted() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(10**9):
            taken.append(item)
            yield item

    results = ordered_map(lambda item: item, items(), 2)
    for wanted in range(20):
        assert next(results) == wanted
        assert len(taken) <= wanted + 4
    results.close()  # type: ignore[attr-defined]
    assert len(taken) <= 24


def test_an_error_comes_at_its_turn_and_drops_the_rest() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("two")
        return item

    results = ordered_map(work, range(10**9), 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
    assert list(results) == []


def test_every_thread_is_prepared_once() -> None:
    prepared: list[int] = []
    names = set(
        ordered_map(lambda _: threading.get_ident(), range(50), 3, lambda: prepared.append(threading.get_ident()))
    )
    assert names <= set(prepared) and len(set(prepared)) == len(prepared) <= 3
