"""Work in threads, one per core; what is worth it lets go of Python's lock (codecs, files)."""

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

MAX_THREADS = 8
"""Each may hold an image of full size in memory."""
Item = TypeVar("Item")


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_threads(function: Callable[[Item], object], items: Iterable[Item]) -> None:
    """Call ``function`` for every item; items are produced here, two per thread ahead at most.

    Raises:
        Exception: what the first failing item's call raised, first in the order of the items;
            later ones may have been done.
    """
    workers = min(MAX_THREADS, cores())
    if workers == 1:
        for item in items:
            function(item)
        return
    import torch  # here: who only lists a folder need not wait for it

    before = torch.get_num_threads()
    waiting: deque[Future[object]] = deque()
    # One thread of Torch per worker, or each would start as many as there are cores.
    with ThreadPoolExecutor(workers, initializer=lambda: torch.set_num_threads(1)) as pool:
        try:
            for item in items:
                if len(waiting) == 2 * workers:
                    waiting.popleft().result()
                waiting.append(pool.submit(function, item))
            while waiting:
                waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            torch.set_num_threads(before)
