"""One pass of a kernel over all queries, block by block, on several threads: the nearest training images and the counts."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from side_ray.search.counting import LevelCounter
from side_ray.search.exact import values_of_pairs, write_nearest
from side_ray.search.float32 import Float32Kernel, full_precision
from side_ray.search.kernels import Kernel
from side_ray.search.neighbors import Counts, Metric, Neighbors

Run = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]


class Part(NamedTuple):
    """The training images of an index."""

    features: np.ndarray
    """float32 [n, d]."""
    ids: np.ndarray
    """int64 [n], distinct."""
    metric: Metric


@dataclass(frozen=True)
class Scan:
    """What one pass needs to know."""

    part: Part
    kernel: Kernel
    float32: Float32Kernel
    """Counts the queries that `kernel` leaves uncounted."""
    queries: np.ndarray
    """float32 [Q, d]."""
    k: int
    """Neighbours wanted, at most n; 0 only counts."""
    width: int
    """Candidates kept per query, from k to n."""
    counter: LevelCounter | None
    threads: int

    def run(self) -> tuple[Neighbors, np.ndarray, Counts | None]:
        """One pass over all pairs.

        Returns:
            The neighbours [Q, k]; the rows (int64) that have more than `width` candidates, whose neighbours are not valid;
            the counts.
        """
        total = len(self.queries)
        neighbors = Neighbors(np.empty((total, self.k), np.int64), np.empty((total, self.k)))
        # Each thread gets the same number of blocks, all of one size.
        threads = 1 if self.kernel.serial else self.threads
        count = -(-total // (self.kernel.block[0] * threads)) * threads
        rows = max(1, -(-total // max(count, 1)))
        with workers(threads) as run, full_precision():
            found = run(
                lambda block: self._block(neighbors, block),
                [slice(row, min(row + rows, total)) for row in range(0, total, rows)],
            )
        lost = [block[0] for block in found]
        counts = None if self.counter is None else Counts.merge([each for block in found for each in block[1]])
        return neighbors, np.concatenate(lost) if lost else np.empty(0, np.int64), counts

    def _block(self, neighbors: Neighbors, block: slice) -> tuple[np.ndarray, list[Counts]]:
        """Write the neighbours of some queries; return the rows that need another search, and the counts."""
        queries, part = self.queries[block], self.part
        found = self.kernel.find(queries, block.start, self.k, self.width, self.counter)
        counts = [] if found.counts is None else [found.counts]
        if self.counter is not None and found.uncounted.any():
            counts.append(self.float32.count(np.flatnonzero(found.uncounted) + block.start, self.counter))
        if found.nearest is not None:
            neighbors.ids[block], neighbors.values[block] = found.nearest.ids, found.nearest.values
        elif self.k:
            rows, columns, values = found.rows, found.columns, found.values
            if values is None:
                order = np.argsort(rows, kind="stable")
                rows, columns = rows[order], columns[order]
                values = values_of_pairs(queries, part.features, rows, columns, part.metric)
            nearest = Neighbors(neighbors.ids[block], neighbors.values[block])
            write_nearest(nearest, rows, values, part.ids[columns], part.metric)
        return np.flatnonzero(found.lost) + block.start, counts


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
