"""The blocked search: one pass of matrix-product tiles gives the nearest images and the counts at every level together.

Its threads take query blocks of their own, product and selection alike: the selection, which is numpy's, runs in parallel
too, and no thread waits for another within a tile.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import methodcaller
from typing import Any

import numpy as np
import torch

from side_ray.memorization.counting import LevelCounter
from side_ray.memorization.exact import rank_candidates
from side_ray.memorization.kernels import Kernel, Scratch, full_precision
from side_ray.memorization.neighbors import Counts, Metric, Neighbors
from side_ray.memorization.topk import TopK, scores_of, survivors

CHUNK_ELEMENTS = 2**26
"""Prepared query features held at a time (256 MiB in float32)."""


@dataclass(frozen=True)
class Part:
    """The training images of an index."""

    features: np.ndarray
    """float32 [n, d]."""
    ids: np.ndarray
    """int64 [n], distinct."""
    ranks: np.ndarray
    """int64 [n], the rank of each row's id."""
    by_rank: np.ndarray
    """int64 [n], the row of each rank."""
    metric: Metric


@dataclass(frozen=True)
class Scan:
    """What one pass needs to know."""

    part: Part
    kernel: Kernel
    queries: np.ndarray
    """float32 [Q, d]."""
    k: int
    """Neighbours wanted, at most n; 0 only counts."""
    width: int
    """Candidates kept per query, k … n; for a kernel that is not exact some more than k."""
    counter: LevelCounter | None
    finer: Kernel | None
    """Counts the tiles of which `kernel` leaves too much undecided."""
    threads: int


def scan(task: Scan) -> tuple[Neighbors, np.ndarray, Counts | None]:
    """One pass over all pairs.

    Returns:
        The neighbours [Q, k]; the rows (int64) for which `width` was too small to hold all candidates within the kernel's
        error, whose neighbours are not valid; the counts.
    """
    total = len(task.queries)
    neighbors = Neighbors(np.empty((total, task.k), np.int64), np.empty((total, task.k)))
    unsure: list[np.ndarray] = []
    counts: list[Counts] = []
    height, step = task.kernel.block
    rows = max(1, min(height, -(-total // task.threads), 2**22 // max(task.width, 1)))
    rows_per_chunk = max(rows, CHUNK_ELEMENTS // max(task.queries.shape[1], 2 * task.width))
    with _workers(task.threads) as run, full_precision():
        for start in range(0, total, rows_per_chunk):
            stop = min(start + rows_per_chunk, total)
            blocks = run(partial(_Block, task), [slice(row, min(row + rows, stop)) for row in range(start, stop, rows)])
            for column in range(0, len(task.part.features), step):
                train = task.kernel.train(column)
                found = run(methodcaller("visit", train, column), blocks)
                if task.counter is not None:
                    counts.append(Counts.merge(found))
            if task.k:
                unsure += run(methodcaller("finish", neighbors), blocks)
    merged = None if task.counter is None else Counts.merge(counts)
    return neighbors, np.concatenate(unsure) if unsure else np.empty(0, np.int64), merged


_scratch = Scratch()


class _Block:
    """Some queries, and the best scores that they have met so far."""

    def __init__(self, task: Scan, rows: slice) -> None:
        self.task, self.rows = task, rows
        queries = task.queries[rows]
        self.prepared = task.kernel.prepare_queries(queries)
        self.epsilon = task.kernel.epsilon(queries)
        self.top = TopK(len(queries), task.k, task.width, task.kernel.dtype) if task.k else None
        self.threshold = np.full(len(queries), -np.inf)
        self.settled = 0
        self.levels = None if task.counter is None else task.counter.block(task.kernel, rows, self.epsilon)

    def _lowered(self, kth: np.ndarray) -> np.ndarray:
        return kth - self.task.kernel.prune_width(kth, self.epsilon)

    def visit(self, train: Any, column: int) -> Counts | None:
        """Take in the tile of the prepared training rows that start at `column`."""
        needed = None if self.levels is None else self.levels.lowest
        lowest = [bounds.min() for bounds in (self.threshold if self.top else None, needed) if bounds is not None]
        tile = self.task.kernel.scores(self.prepared, train, _scratch, positive=min(lowest) > 0)
        mask = _scratch.get(len(tile), tile.shape[1], torch.bool).numpy()
        listed = None
        if self.top is not None:
            flat, complete = survivors(tile, self.threshold, needed, self.task.k, self._lowered, mask)
            rows = flat // tile.shape[1]
            ranks = self.task.part.ranks[flat - rows * tile.shape[1] + column]
            scores = scores_of(tile.ravel()[flat])
            self.top.hold(rows, scores, ranks)
            self._raise_threshold(column + tile.shape[1])
            listed = (flat, scores) if complete else None
        if self.levels is None:
            return None
        counted = self.levels.count(tile, column, mask, listed, settle=self.task.finer is None)
        return self._count_finer(column, tile.shape[1], mask) if counted is None else counted

    def _raise_threshold(self, seen: int) -> None:
        """Only whenever twice as many training images have been seen: survivors grow with the logarithm of their number."""
        assert self.top is not None
        if seen >= 2 * self.settled or seen == len(self.task.part.features):
            self.top.settle()
            self.threshold = np.maximum(self.threshold, self._lowered(self.top.kth()))
            self.settled = seen

    def _count_finer(self, column: int, size: int, mask: np.ndarray) -> Counts | None:
        finer, queries = self.task.finer, self.task.queries[self.rows]
        assert finer is not None
        assert self.task.counter is not None
        levels = self.task.counter.block(finer, self.rows, finer.epsilon(queries))
        train = finer.prepare_train(column, column + size)
        tile = finer.scores(finer.prepare_queries(queries), train, _scratch, positive=False)
        return levels.count(tile, column, mask, None, settle=True)

    def finish(self, neighbors: Neighbors) -> np.ndarray:
        """Write the rows of this block; returns those (int64) that need more candidates than were kept."""
        assert self.top is not None
        task, part = self.task, self.task.part
        queries = task.queries[self.rows]
        scores, ranks = self.top.best()
        if task.kernel.exact:
            columns = part.by_rank[ranks]
            neighbors.ids[self.rows] = part.ids[columns]
            neighbors.values[self.rows] = np.sqrt(task.kernel.query_norms(queries)[:, None] - scores)
            return np.empty(0, np.int64)
        at_least = self._lowered(scores[:, task.k - 1])
        kept = scores >= at_least[:, None]
        columns = np.where(kept, part.by_rank[np.where(kept, ranks, 0)], -1)
        closest = task.kernel.closest_values(scores, queries, self.epsilon)
        found = rank_candidates(queries, part.features, part.ids, columns, closest, task.k, part.metric)
        neighbors.ids[self.rows], neighbors.values[self.rows] = found.ids, found.values
        if task.width == len(part.features):
            return np.empty(0, np.int64)
        return np.flatnonzero(self.top.may_have_dropped(at_least)) + self.rows.start


Run = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]


@contextmanager
def _workers(threads: int) -> Iterator[Run]:
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
