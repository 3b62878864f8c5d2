"""Counts at levels of similarity from tiles of scores; what a tile cannot decide is decided on exact values."""

import numpy as np

from side_ray.search.candidates import Pairs, reaching, rounded_down
from side_ray.search.exact import values_of_pairs
from side_ray.search.neighbors import Counts, Levels, Metric, normalize

DENSE_SHARE = 0.02
"""Share of a tile's pairs at some level above which whole columns are counted instead of listing pairs."""


class LevelCounter:
    """Counts, for blocks of queries, which training images reach which named level.

    Args:
        queries, train, ids: float32 [Q, d], float32 [n, d], int64 [n].
        denominator: float64 [Q], value = distance / denominator for l2; None where the value is the inner product.
    """

    def __init__(
        self,
        queries: np.ndarray,
        train: np.ndarray,
        ids: np.ndarray,
        metric: Metric,
        levels: Levels,
        denominator: np.ndarray | None,
    ) -> None:
        self.queries, self.train, self.ids, self.metric = queries, train, ids, metric
        self.levels, self.denominator = levels, denominator
        self.named = [level for level, names in enumerate(levels.labels) if names]
        self.lowest = min(self.named, default=len(levels.labels))

    def block(self, rows: np.ndarray, norms: np.ndarray | None, error: np.ndarray, dtype: np.dtype) -> "BlockLevels":
        """The level edges of some queries as bounds on a kernel's scores.

        Args:
            rows: int64 [q], which queries, ascending.
            norms: float64 [q], the kernel's ‖q‖² for l2.
            error: float64 [q], how far a score of the kernel may be from the true one.
            dtype: of the kernel's scores.
        """
        edges = self.levels.edges[self.lowest :].astype(np.float64)
        if norms is None:
            scores = np.broadcast_to(edges, (rows.size, edges.size))
            rounding = 2.0**-23 * np.abs(scores)
        else:
            assert self.denominator is not None
            norms = norms[:, None]
            with np.errstate(invalid="ignore"):
                radii = np.where(edges == -np.inf, np.inf, -edges * self.denominator[rows, None])
            scores = np.where(edges > 0, np.inf, norms - radii**2)
            # Values are rounded to float32 before they meet an edge; the rest is float64 arithmetic.
            rounding = 2.0**-22 * radii**2 + 2.0**-48 * norms
        with np.errstate(invalid="ignore"):
            slack = error[:, None] + rounding
        slack = np.where(np.isfinite(scores), slack, 0.0)
        return BlockLevels(self, rows, rounded_down(scores - slack, dtype), -rounded_down(-(scores + slack), dtype))

    def exact_level(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Levels of single pairs, from float64 values."""
        values = values_of_pairs(self.queries, self.train, rows, columns, self.metric)
        if self.denominator is not None:
            values = normalize(values, self.denominator[rows])
        return self.levels.assign(values)


class BlockLevels:
    """Level edges of one block of queries: at level j or above for certain from `sure[:, j]`, not at all below `maybe[:, j]`."""

    def __init__(self, counter: LevelCounter, rows: np.ndarray, maybe: np.ndarray, sure: np.ndarray) -> None:
        self.counter, self.rows, self.maybe, self.sure = counter, rows, maybe, sure
        self.lowest = np.ascontiguousarray(maybe[:, 0])
        """[q], no score below it is at any level."""

    def count(self, tile: np.ndarray, column: int, mask: np.ndarray) -> Counts:
        """Counts of a tile [q, t] whose first column is training row `column`; bool `mask` [q, t] is scratch."""
        np.greater_equal(tile, self.lowest[:, None], out=mask)
        if np.count_nonzero(mask) > DENSE_SHARE * tile.size:
            return self._count_columns(tile, column)
        return self.count_pairs(reaching(tile, column, self.lowest, mask))

    def count_pairs(self, pairs: Pairs) -> Counts:
        """Counts of listed pairs."""
        kept = pairs.scores >= self.lowest[pairs.rows]
        rows, columns, scores = pairs.rows[kept], pairs.columns[kept], pairs.scores[kept, None]
        level = (scores >= self.sure[rows]).sum(axis=1) - 1 + self.counter.lowest
        unsure = ((scores >= self.maybe[rows]) & (scores < self.sure[rows])).any(axis=1)
        rows = self.rows[rows]
        level[unsure] = self.counter.exact_level(rows[unsure], columns[unsure])
        return self._named(level, columns, rows)

    def _count_columns(self, tile: np.ndarray, column: int) -> Counts:
        edges = range(self.sure.shape[1])
        above = [tile >= self.sure[:, edge, None] for edge in edges]
        possible = [tile >= self.maybe[:, edge, None] for edge in edges]
        # `>` of booleans is "and not".
        unsure = np.logical_or.reduce([possible[edge] > above[edge] for edge in edges])
        found = []
        for edge in edges:
            level = self.counter.lowest + edge
            if level not in self.counter.named:
                continue
            inside = above[edge] > possible[edge + 1] if edge + 1 < len(edges) else above[edge]
            counts = _column_sums(inside)
            columns = np.flatnonzero(counts)
            first = self.rows[_first_rows(inside, columns)]
            found.append(
                Counts(np.full(columns.size, level), self.counter.ids[columns + column], counts[columns], first)
            )
        rows, columns = np.nonzero(unsure)
        rows, columns = self.rows[rows], columns + column
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
