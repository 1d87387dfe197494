"""Work in several processes, whose results come in the order of the work."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from pipeline.common.parent_watch import end_with

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """The function's results for every item, in the order of the items, from `workers` processes.

    At most four results a process are computed before they are asked for: memory stays bounded.
    """
    if workers == 1:
        yield from map(function, items)
        return
    # Forked, so that what is slow to import is imported once. They end with this process, however it ends.
    fork = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(workers, mp_context=fork, initializer=end_with, initargs=(os.getpid(),))
    try:
        # Not the pool's own `map`: it would submit all items at once, and their results would pile up.
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
