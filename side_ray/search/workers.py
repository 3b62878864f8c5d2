"""Threads that share the work of a search."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

Run = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]


@contextmanager
def workers(threads: int) -> Iterator[Run]:
    """A parallel map over `threads` threads, each of which multiplies on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if threads == 1:
            yield lambda function, items: [function(item) for item in items]
        else:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield lambda function, items: list(pool.map(function, items))
    finally:
        torch.set_num_threads(before)
