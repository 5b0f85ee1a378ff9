"""Work on many items at once, with the results in order and few items in flight."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], workers: int, initializer: Callable[[], None] | None = None
) -> Iterator[R]:
    """Calls `function` on every item in threads of its own and yields the results in the order of the items.

    Threads suffice where the work lies in code that releases Python's lock, as decoding, networks and encoding do.
    `items` is advanced in the consumer's thread, and at most `2 * workers` items are taken beyond the results that were
    yielded, so memory does not grow with their number, and they may be endless. An exception of `function` is raised at
    its item's turn; items that have not been started by then, or when the iterator is closed, are dropped.
    `initializer` is called once in every one of the `workers` threads before its first item.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="kaseg", initializer=initializer) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) == 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
