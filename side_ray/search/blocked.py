"""The blocked search: one pass of matrix-product tiles gives the nearest images and the counts at every level together.

Its threads take groups of queries of their own through the whole pass, product and selection alike, so that none waits for
another.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from side_ray.search.counting import LevelCounter, Pairs
from side_ray.search.cpu_int8.tiles import SPARE, listed
from side_ray.search.exact import Nearest, rows_of, values_of_pairs
from side_ray.search.kernels import Kernel, Queries, full_precision
from side_ray.search.memory import Scratch, borrowed
from side_ray.search.neighbors import Counts, Metric, Neighbors
from side_ray.search.topk import Candidates
from side_ray.search.workers import workers

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
    with workers(task.threads) as run, full_precision():
        if task.kernel.kept is not None:
            run(task.kernel.train, range(0, len(task.part.features), task.kernel.block[1]))
        found = run(
            partial(_scan_group, task, neighbors),
            [slice(row, min(row + rows, total)) for row in range(0, total, rows)],
        )
    unsure = [group[0] for group in found]
    merged = None if task.counter is None else Counts.merge([group[1] for group in found])
    return neighbors, np.concatenate(unsure) if unsure else np.empty(0, np.int64), merged


def _scan_group(task: Scan, neighbors: Neighbors, rows: slice) -> tuple[np.ndarray, Counts]:
    """Scan for some queries: writes their neighbours; returns the rows that need another search, and the counts."""
    with borrowed() as scratch:
        return _scan_in(scratch, task, neighbors, rows)


def _scan_in(scratch: Scratch, task: Scan, neighbors: Neighbors, rows: slice) -> tuple[np.ndarray, Counts]:
    counts: list[Counts] = []
    kernel, queries = task.kernel, task.queries[rows]
    height, step = kernel.block
    pieces = [slice(start, min(start + height, len(queries))) for start in range(0, len(queries), height)]
    prepared = [kernel.prepare_queries(queries[piece]) for piece in pieces]
    epsilon = np.concatenate([each.epsilon for each in prepared])
    shape = len(queries), task.width + SPARE
    columns = scratch.get("columns", *shape, np.int32)
    scores = scratch.get("held", *shape, np.int32).view(kernel.slack.dtype)
    top = Candidates(epsilon, kernel.slack, task.k, columns, scores) if task.k else None
    blocks = [
        _Block(
            task,
            scratch,
            slice(rows.start + piece.start, rows.start + piece.stop),
            each,
            None if top is None else top.part(piece),
        )
        for piece, each in zip(pieces, prepared, strict=True)
    ]
    for column in range(0, len(task.part.features), step):
        train = kernel.train(column)
        counts += [counted for block in blocks if (counted := block.visit(train, column)) is not None]
    counts += [block.levels.late() for block in blocks if block.levels]
    if top is None:
        return np.empty(0, np.int64), Counts.merge(counts)
    _rank(
        task, queries, top, epsilon, Nearest(Neighbors(neighbors.ids[rows], neighbors.values[rows]), task.part.metric)
    )
    return np.flatnonzero(top.lost) + rows.start, Counts.merge(counts)


class _Block:
    """Some queries, and the best scores that they have met so far."""

    def __init__(self, task: Scan, scratch: Scratch, rows: slice, prepared: Queries, top: Candidates | None) -> None:
        self.task, self.scratch, self.rows, self.prepared, self.top = task, scratch, rows, prepared, top
        self.levels = None if task.counter is None else task.counter.block(task.kernel, rows, prepared.epsilon)

    def visit(self, train: Any, column: int) -> Counts | None:
        """Take in the pairs with the prepared training rows that start at `column`."""
        kernel, tile, pairs, settle = self.task.kernel, None, None, self.task.finer is None
        if self.top is not None and self._takes_all(self.top):
            before = kernel.take(self.prepared, train, self.scratch, self.top, column)
            pairs = self._listed(self.top, before)
        elif self.top is not None:
            tile = kernel.scores(self.prepared, train, self.scratch)
            self.top.take(tile, column)
        if self.levels is None:
            return None
        size = min(kernel.block[1], len(self.task.part.features) - column)
        if pairs is not None:
            counted = self.levels.count_listed(pairs, (self.rows.stop - self.rows.start) * size, settle)
        else:
            tile = kernel.scores(self.prepared, train, self.scratch) if tile is None else tile
            counted = self.levels.count(tile, column, self._mask(tile.shape), settle)
        return self._count_finer(column, size) if counted is None else counted

    def _takes_all(self, top: Candidates) -> bool:
        """Whether the search for the nearest comes upon all pairs at some level."""
        return self.levels is None or bool((top.held.threshold <= self.levels.lowest).all())

    def _listed(self, top: Candidates, before: np.ndarray | None) -> Pairs | None:
        """The pairs at some level since `before`, where all of them were taken."""
        if self.levels is None or before is None or not self._takes_all(top):
            return None
        rows, places = listed(top.held, before, self.levels.lowest)
        return Pairs(rows, top.held.columns[rows, places], top.held.scores[rows, places])

    def _count_finer(self, column: int, size: int) -> Counts | None:
        finer, queries = self.task.finer, self.task.queries[self.rows]
        assert finer is not None
        assert self.task.counter is not None
        prepared = finer.prepare_queries(queries)
        levels = self.task.counter.block(finer, self.rows, prepared.epsilon)
        train = finer.prepare_train(column, column + size)
        tile = finer.scores(prepared, train, self.scratch)
        return levels.count(tile, column, self._mask(tile.shape), settle=True)

    def _mask(self, shape: tuple[int, int]) -> np.ndarray:
        return self.scratch.get("mask", *shape, np.bool_)


def _rank(task: Scan, queries: np.ndarray, top: Candidates, epsilon: np.ndarray, nearest: Nearest) -> None:
    """Add the nearest of the queries of a group, but for those that are lost."""
    part, kernel = task.part, task.kernel

    def compare(count: np.ndarray, columns: np.ndarray) -> None:
        values = values_of_pairs(queries, part.features, rows_of(count), columns, part.metric)
        nearest.add(count, values, part.ids[columns])

    count, columns, scores = top.promising()
    if kernel.exact:
        # Those are all that can be among the nearest.
        values = np.sqrt(np.repeat(kernel.query_norms(queries), count) - scores)
        nearest.add(count, values, part.ids[columns])
    else:
        compare(count, columns)
        lowest = kernel.least_scores(nearest.farthest, queries)
        compare(*kernel.sift(queries, *top.others(epsilon, lowest), lowest))
    nearest.finish()
