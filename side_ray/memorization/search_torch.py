"""The blocked search: one pass of matrix-product tiles gives the nearest images and the counts at every level together.

Its threads take query blocks of their own, product and selection alike: the selection, which is numpy's, runs in parallel
too, and no thread waits for another within a tile.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from side_ray.memorization.counting import LevelCounter
from side_ray.memorization.exact import rank_candidates
from side_ray.memorization.kernels import Kernel, full_precision
from side_ray.memorization.neighbors import Counts, Metric, Neighbors
from side_ray.memorization.topk import TopK, survivors

QUERY_BLOCK, TRAIN_BLOCK = 512, 4096
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
    rows = max(1, min(QUERY_BLOCK, 2**22 // max(task.width, 1)))
    rows_per_chunk = max(rows, CHUNK_ELEMENTS // max(task.queries.shape[1], 2 * task.width))
    with _workers(task.threads) as run, full_precision():
        for start in range(0, total, rows_per_chunk):
            stop = min(start + rows_per_chunk, total)
            blocks = run(
                lambda row, stop=stop: _Block(task, slice(row, min(row + rows, stop))), range(start, stop, rows)
            )
            for column in range(0, len(task.part.features), TRAIN_BLOCK):
                train = task.kernel.prepare_train(column, min(column + TRAIN_BLOCK, len(task.part.features)))
                found = run(lambda block, train=train, column=column: block.visit(train, column), blocks)
                if task.counter is not None:
                    counts.append(Counts.merge(found))
            if task.k:
                unsure += run(lambda block: block.finish(neighbors), blocks)
    merged = None if task.counter is None else Counts.merge(counts)
    return neighbors, np.concatenate(unsure) if unsure else np.empty(0, np.int64), merged


class _Block:
    """Some queries, and the best scores that they have met so far."""

    def __init__(self, task: Scan, rows: slice) -> None:
        self.task, self.rows = task, rows
        queries = task.queries[rows]
        self.prepared = task.kernel.prepare_queries(queries)
        self.epsilon = task.kernel.epsilon(queries)
        self.top = TopK(len(queries), task.k, task.width) if task.k else None
        self.threshold = np.full(len(queries), -np.inf)
        self.levels = None if task.counter is None else task.counter.block(task.kernel, rows, self.epsilon)

    def _lowered(self, kth: np.ndarray) -> np.ndarray:
        return kth - self.task.kernel.prune_width(kth, self.epsilon)

    def visit(self, train: Any, column: int) -> Counts | None:
        """Take in the tile of the prepared training rows that start at `column`."""
        size = min(TRAIN_BLOCK, len(self.task.part.features) - column)
        buffer, mask = _scratch(len(self.epsilon), size, self.task.kernel)
        tile = self.task.kernel.scores(self.prepared, train, buffer)
        listed = None
        if self.top is not None:
            before = self.threshold
            flat = survivors(tile, before, self.task.k, self._lowered, mask)
            rows = flat // size
            self.top.push(rows, tile.ravel()[flat], self.task.part.ranks[flat - rows * size + column])
            self.threshold = np.maximum(before, self._lowered(self.top.kth(self.task.kernel.dtype)))
            if self.levels is not None and column and (self.threshold <= self.levels.maybe[:, 0]).all():
                listed = flat
        if self.levels is None:
            return None
        counted = self.levels.count(tile, column, mask, listed, settle=self.task.finer is None)
        return self._count_finer(column, size, buffer, mask) if counted is None else counted

    def _count_finer(self, column: int, size: int, buffer: torch.Tensor, mask: np.ndarray) -> Counts | None:
        finer, queries = self.task.finer, self.task.queries[self.rows]
        assert finer is not None and self.task.counter is not None
        levels = self.task.counter.block(finer, self.rows, finer.epsilon(queries))
        tile = finer.scores(finer.prepare_queries(queries), finer.prepare_train(column, column + size), buffer)
        return levels.count(tile, column, mask, None, settle=True)

    def finish(self, neighbors: Neighbors) -> np.ndarray:
        """Write the rows of this block; returns those (int64) that need more candidates than were kept."""
        assert self.top is not None
        task, dtype = self.task, self.task.kernel.dtype
        if task.kernel.exact:
            scores, ranks = self.top.best(dtype)
            columns = task.part.by_rank[ranks]
            neighbors.ids[self.rows] = task.part.ids[columns]
            neighbors.values[self.rows] = np.sqrt(task.kernel.query_norms(task.queries[self.rows])[:, None] - scores)
            return np.empty(0, np.int64)
        at_least = self._lowered(self.top.kth(dtype))
        unsure = (
            np.flatnonzero(self.top.may_have_dropped(at_least, dtype)) if task.width < len(task.part.features) else []
        )
        ranks = self.top.candidates(at_least, dtype)
        columns = np.where(ranks >= 0, task.part.by_rank[ranks], -1)
        found = rank_candidates(
            task.queries[self.rows], task.part.features, task.part.ids, columns, task.k, task.part.metric
        )
        neighbors.ids[self.rows], neighbors.values[self.rows] = found.ids, found.values
        return np.asarray(unsure, np.int64) + self.rows.start


_local = threading.local()


def _scratch(rows: int, columns: int, kernel: Kernel) -> tuple[torch.Tensor, np.ndarray]:
    """A thread's own tile and mask: fresh ones would cost a page fault per 4 KiB and tile."""
    dtype = torch.int32 if kernel.dtype is np.int32 else torch.float32
    held = getattr(_local, "tiles", None)
    if held is None or held[0].dtype != dtype:
        held = _local.tiles = (
            torch.empty(QUERY_BLOCK * TRAIN_BLOCK, dtype=dtype),
            np.empty(QUERY_BLOCK * TRAIN_BLOCK, bool),
        )
    return held[0][: rows * columns].view(rows, columns), held[1][: rows * columns].reshape(rows, columns)


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
