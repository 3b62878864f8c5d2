"""Counts at levels of similarity from tiles of scores; what a tile cannot decide is decided on exact values."""

from typing import NamedTuple

import numpy as np

from side_ray.search.exact import values_of_pairs
from side_ray.search.kernels import Kernel
from side_ray.search.levels import Levels
from side_ray.search.neighbors import Counts, Metric, normalize
from side_ray.search.topk import rounded_down

DENSE_SHARE = 0.02
"""Share of a tile's pairs at some level above which whole columns are counted instead of listing pairs."""
UNSURE_SHARE = 0.002
"""Share of undecided pairs above which a coarse kernel is not worth its speed."""


class Pairs(NamedTuple):
    """Some pairs of a block of queries and the training images."""

    rows: np.ndarray
    """int64 [m], of the block."""
    columns: np.ndarray
    """integers [m], training rows."""
    scores: np.ndarray
    """[m], a kernel's."""


class LevelCounter:
    """Counts, for blocks of queries, which training images reach which named level.

    Args:
        queries, train, ids: float32 [Q, d], float32 [n, d], int64 [n].
        unit: float64 [Q], value = distance / unit for l2; None where the value is the inner product.
    """

    def __init__(
        self,
        queries: np.ndarray,
        train: np.ndarray,
        ids: np.ndarray,
        metric: Metric,
        levels: Levels,
        unit: np.ndarray | None,
    ) -> None:
        self.queries, self.train, self.ids, self.metric = queries, train, ids, metric
        self.levels, self.unit = levels, unit
        self.named = [level for level, names in enumerate(levels.labels) if names]
        self.lowest = min(self.named, default=len(levels.labels))

    def block(self, kernel: Kernel, rows: slice, epsilon: np.ndarray) -> "BlockLevels":
        """The level edges of some queries as bounds on a kernel's scores.

        Args:
            epsilon: float64 [q], the kernel's ε for these rows.
        """
        edges = self.levels.edges[self.lowest :].astype(np.float64)
        if self.metric == "ip":
            scores = np.broadcast_to(edges, (rows.stop - rows.start, edges.size))
            rounding = 2.0**-23 * np.abs(scores)
        else:
            assert self.unit is not None
            norms = kernel.query_norms(self.queries[rows])[:, None]
            with np.errstate(invalid="ignore"):
                radii = np.where(edges == -np.inf, np.inf, -edges * self.unit[rows, None])
            scores = np.where(edges > 0, np.inf, norms - radii**2)
            # Values are rounded to float32 before they meet an edge; the rest is float64 arithmetic.
            rounding = 2.0**-22 * radii**2 + 2.0**-48 * norms
        with np.errstate(invalid="ignore"):
            slack = kernel.widest(epsilon)[:, None] + rounding
        slack = np.where(np.isfinite(scores), slack, 0.0)
        return BlockLevels(
            self,
            rows,
            rounded_down(scores - slack, kernel.slack.dtype),
            -rounded_down(-(scores + slack), kernel.slack.dtype),
        )

    def exact_level(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Levels of single pairs, from float64 values."""
        values = values_of_pairs(self.queries, self.train, rows, columns, self.metric)
        if self.unit is not None:
            values = normalize(values, self.unit[rows])
        return self.levels.assign(values)


class BlockLevels:
    """Level edges of one block of queries: at level j or above for certain from `sure[:, j]`, not at all below `maybe[:, j]`."""

    def __init__(self, counter: LevelCounter, rows: slice, maybe: np.ndarray, sure: np.ndarray) -> None:
        self.counter, self.rows, self.maybe, self.sure = counter, rows, maybe, sure
        self.lowest = maybe[:, 0].copy()
        """[q], no score below it is at any level."""
        self.waiting: list[Pairs] = []

    def count(self, tile: np.ndarray, column: int, mask: np.ndarray, settle: bool) -> Counts | None:
        """Counts of a tile [q, t] whose first column is training row `column`.

        Args:
            mask: bool [q, t], scratch.
            settle: decide every undecided pair; otherwise return None where they are many.
        """
        np.greater_equal(tile, self.maybe[:, :1], out=mask)
        if np.count_nonzero(mask) > DENSE_SHARE * tile.size:
            return self._count_columns(tile, column, settle)
        rows, columns = np.divmod(np.flatnonzero(mask), tile.shape[1])
        pairs = Pairs(rows, columns + column, tile[rows, columns])
        return self.count_pairs(pairs, limit=None if settle else UNSURE_SHARE * tile.size)

    def count_listed(self, pairs: Pairs, size: int, settle: bool) -> Counts | None:
        """Counts of all pairs at some level among `size`, or none yet where they are few; see `count` and `late`."""
        if sum(each.rows.size for each in (*self.waiting, pairs)) < UNSURE_SHARE * size:
            self.waiting.append(pairs)
            return Counts.merge([])
        return self.count_pairs(pairs, limit=None if settle else UNSURE_SHARE * size)

    def late(self) -> Counts:
        """Counts of the few pairs of many tiles, in one go."""
        if not self.waiting:
            return Counts.merge([])
        counts = self.count_pairs(Pairs(*(np.concatenate(parts) for parts in zip(*self.waiting, strict=True))))
        assert counts is not None
        self.waiting.clear()
        return counts

    def count_pairs(self, pairs: Pairs, limit: float | None = None) -> Counts | None:
        """Counts of listed pairs; None where more than `limit` are undecided."""
        rows, columns, scores = pairs
        kept = scores >= self.maybe[rows, 0]
        rows, columns, scores = rows[kept], columns[kept], scores[kept, None]
        level = (scores >= self.sure[rows]).sum(axis=1) - 1 + self.counter.lowest
        unsure = ((scores >= self.maybe[rows]) & (scores < self.sure[rows])).any(axis=1)
        if limit is not None and np.count_nonzero(unsure) > limit:
            return None
        rows = rows + self.rows.start
        level[unsure] = self.counter.exact_level(rows[unsure], columns[unsure])
        return self._named(level, columns, rows)

    def _count_columns(self, tile: np.ndarray, column: int, settle: bool) -> Counts | None:
        edges = range(self.sure.shape[1])
        above = [tile >= self.sure[:, edge, None] for edge in edges]
        possible = [tile >= self.maybe[:, edge, None] for edge in edges]
        # `>` of booleans is "and not".
        unsure = np.logical_or.reduce([possible[edge] > above[edge] for edge in edges])
        if not settle and np.count_nonzero(unsure) > UNSURE_SHARE * tile.size:
            return None
        found = []
        for edge in edges:
            level = self.counter.lowest + edge
            if level not in self.counter.named:
                continue
            inside = above[edge] > possible[edge + 1] if edge + 1 < len(edges) else above[edge]
            counts = _column_sums(inside)
            columns = np.flatnonzero(counts)
            first = _first_rows(inside, columns) + self.rows.start
            found.append(
                Counts(np.full(columns.size, level), self.counter.ids[columns + column], counts[columns], first)
            )
        rows, columns = np.nonzero(unsure)
        rows += self.rows.start
        columns += column
        found.append(self._named(self.counter.exact_level(rows, columns), columns, rows))
        return Counts.merge(found)

    def _named(self, level: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> Counts:
        kept = np.isin(level, self.counter.named)
        return Counts.of_pairs(level[kept], self.counter.ids[columns[kept]], rows[kept])


def _column_sums(mask: np.ndarray) -> np.ndarray:
    """int64 [t], the number of True in each column of bool [q, t]; 255 rows fit a byte."""
    total = np.zeros(mask.shape[1], np.int64)
    for start in range(0, len(mask), 255):
        total += mask[start : start + 255].view(np.uint8).sum(axis=0, dtype=np.uint8)
    return total


def _first_rows(mask: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """int64, the first True of each of the columns, which all have one; most are found in few rows."""
    first = np.empty(columns.size, np.int64)
    left, start, height = np.arange(columns.size), 0, 8
    while left.size:
        block = mask[start : start + height, columns[left]]
        hit = block.any(axis=0)
        first[left[hit]] = block[:, hit].argmax(axis=0) + start
        left, start, height = left[~hit], start + height, 2 * height
    return first
