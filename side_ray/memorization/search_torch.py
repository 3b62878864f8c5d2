"""The blocked search: one pass of matrix-product tiles gives the nearest images and the counts at every level together.

Its threads take groups of queries of their own through the whole pass, product and selection alike, so that none waits for
another.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from side_ray.memorization.compiled import listed
from side_ray.memorization.counting import LevelCounter, Pairs
from side_ray.memorization.exact import nearest_of_rows, rank_candidates
from side_ray.memorization.kernels import Kernel, Scratch, full_precision
from side_ray.memorization.neighbors import Counts, Metric, Neighbors
from side_ray.memorization.topk import Candidates

GROUP = 4096
"""Queries that a thread takes at a time, at most, so that a training image, once read, serves many."""
GROUP_ELEMENTS = 2**25
"""Prepared features of a group, and what its candidates take (128 MiB each)."""


@dataclass(frozen=True)
class Part:
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
    queries: np.ndarray
    """float32 [Q, d]."""
    k: int
    """Neighbours wanted, at most n; 0 only counts."""
    width: int
    """Candidates kept per query, k … n."""
    counter: LevelCounter | None
    finer: Kernel | None
    """Counts the tiles of which `kernel` leaves too much undecided."""
    threads: int


def scan(task: Scan) -> tuple[Neighbors, np.ndarray, Counts | None]:
    """One pass over all pairs.

    Returns:
        The neighbours [Q, k]; the rows (int64) for which `width` was too small to hold all candidates, whose neighbours are not
        valid; the counts.
    """
    total = len(task.queries)
    neighbors = Neighbors(np.empty((total, task.k), np.int64), np.empty((total, task.k)))
    most = max(1, min(GROUP, GROUP_ELEMENTS // max(task.queries.shape[1], 2 * task.width)))
    groups = -(-total // (most * task.threads)) * task.threads
    rows = max(1, -(-total // max(groups, 1)))
    with _workers(task.threads) as run, full_precision():
        found = run(
            partial(_scan_group, task, neighbors),
            [slice(row, min(row + rows, total)) for row in range(0, total, rows)],
        )
    unsure = [group[0] for group in found]
    merged = None if task.counter is None else Counts.merge([group[1] for group in found])
    return neighbors, np.concatenate(unsure) if unsure else np.empty(0, np.int64), merged


_scratch = Scratch()


def _scan_group(task: Scan, neighbors: Neighbors, rows: slice) -> tuple[np.ndarray, Counts]:
    """Scan for some queries: writes their neighbours; returns the rows that need another search, and the counts."""
    counts: list[Counts] = []
    height, step = task.kernel.block
    size = rows.stop - rows.start
    columns = _scratch.get("columns", size, task.width, torch.int32).numpy()
    held = _scratch.get("held", size, task.width, torch.int32).numpy().view(task.kernel.slack.dtype)
    blocks = []
    for start in range(0, size, height):
        piece = slice(start, min(start + height, size))
        blocks.append(
            _Block(task, slice(rows.start + piece.start, rows.start + piece.stop), columns[piece], held[piece])
        )
    for column in range(0, len(task.part.features), step):
        train = task.kernel.train(column)
        counts += [counted for block in blocks if (counted := block.visit(train, column)) is not None]
    counts += [block.levels.late() for block in blocks if block.levels]
    unsure = _finish(task, neighbors, blocks) if task.k else np.empty(0, np.int64)
    return unsure, Counts.merge(counts)


class _Block:
    """Some queries, and the best scores that they have met so far."""

    def __init__(self, task: Scan, rows: slice, columns: np.ndarray, scores: np.ndarray) -> None:
        self.task, self.rows = task, rows
        queries = task.queries[rows]
        self.prepared = task.kernel.prepare_queries(queries)
        self.epsilon = task.kernel.epsilon(queries)
        self.top = Candidates(self.epsilon, task.kernel.slack, task.k, columns, scores) if task.k else None
        self.levels = None if task.counter is None else task.counter.block(task.kernel, rows, self.epsilon)

    def visit(self, train: Any, column: int) -> Counts | None:
        """Take in the tile of the prepared training rows that start at `column`."""
        tile = self.task.kernel.scores(self.prepared, train, _scratch)
        listed = None if self.top is None else self._take(tile, column)
        if self.levels is None:
            return None
        mask = _scratch.get("mask", len(tile), tile.shape[1], torch.bool).numpy()
        counted = self.levels.count(tile, column, mask, listed, settle=self.task.finer is None)
        return self._count_finer(column, tile.shape[1], mask) if counted is None else counted

    def _take(self, tile: np.ndarray, column: int) -> Pairs | None:
        """Of the tile's pairs, all that are at some level, where the search for the nearest has come upon them already."""
        assert self.top is not None
        top = self.top
        before = top.take(tile, column)
        if self.levels is None or before is None or not (top.threshold <= self.levels.lowest).all():
            return None
        rows, places = listed(top.scores, before, top.count, self.levels.lowest)
        return Pairs(rows, top.columns[rows, places], top.scores[rows, places])

    def _count_finer(self, column: int, size: int, mask: np.ndarray) -> Counts | None:
        finer, queries = self.task.finer, self.task.queries[self.rows]
        assert finer is not None
        assert self.task.counter is not None
        levels = self.task.counter.block(finer, self.rows, finer.epsilon(queries))
        train = finer.prepare_train(column, column + size)
        tile = finer.scores(finer.prepare_queries(queries), train, _scratch)
        return levels.count(tile, column, mask, None, settle=True)

    def listed(self) -> tuple[np.ndarray, ...]:
        """Rows int64 and columns of all that can be among the nearest, their scores, which are promising, and their ε."""
        assert self.top is not None
        rows, columns, scores = self.top.listed()
        slack = self.task.kernel.slack[columns] if self.task.kernel.slack.size else self.task.kernel.slack.dtype.type(0)
        promising = scores - slack >= self.top.best[rows, 0]
        return rows + self.rows.start, columns, scores, promising, self.epsilon[rows] + slack


def _finish(task: Scan, neighbors: Neighbors, blocks: Sequence[_Block]) -> np.ndarray:
    """Write the neighbours of some blocks that follow each other; returns the rows (int64) that need another search."""
    part, kernel, chosen = task.part, task.kernel, slice(blocks[0].rows.start, blocks[-1].rows.stop)
    pieces = zip(*(block.listed() for block in blocks), strict=True)
    rows, columns, scores, promising, error = (np.concatenate(piece) for piece in pieces)
    rows -= chosen.start
    queries = task.queries[chosen]
    if kernel.exact:
        values = np.sqrt(kernel.query_norms(queries)[rows] - scores)
        found = nearest_of_rows(rows, values, part.ids[columns], len(queries), task.k, part.metric)
    else:
        closest = kernel.closest_values(scores + error, queries, rows)
        pairs = rows, columns
        found = rank_candidates(queries, part.features, part.ids, pairs, promising, closest, task.k, part.metric)
    neighbors.ids[chosen], neighbors.values[chosen] = found.ids, found.values
    return np.concatenate([np.flatnonzero(block.top.lost) + block.rows.start for block in blocks if block.top])


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
