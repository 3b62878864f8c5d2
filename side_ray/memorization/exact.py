"""Values of single pairs in float64: what a search reports, whatever found the pair."""

import numpy as np

from side_ray.memorization import compiled
from side_ray.memorization.neighbors import Metric, Neighbors, nearest_first

CACHED = 2**18
"""Training features (1 MiB) that many pairs are compared with before the next ones are read."""


def values_of_pairs(
    queries: np.ndarray, train: np.ndarray, rows: np.ndarray, columns: np.ndarray, metric: Metric
) -> np.ndarray:
    """float64 [m], values of float32 queries[rows] and train[columns].

    `l2`: Euclidean distance, exactly 0 for equal rows, and exact before the root for whole numbers (their squares and sums
    stay below 2⁵³). `ip`: inner product clipped to [-1, 1]. A pair's value depends on the pair alone: the sum of a row is
    always taken in the same order.
    """
    values = np.empty(rows.size)
    # Numbers of 16 bits are sorted in linear time.
    blocks = (columns // max(1, CACHED // train.shape[1])).astype(np.uint16)
    order = np.argsort(blocks, kind="stable")
    if metric == "ip":
        compiled.products(queries, train, rows, columns, order, values)
        return np.clip(values, -1.0, 1.0, out=values)
    compiled.squares(queries, train, rows, columns, order, values)
    return np.sqrt(values, out=values)


def rank_candidates(
    queries: np.ndarray,
    train: np.ndarray,
    ids: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray],
    promising: np.ndarray,
    closest: np.ndarray,
    k: int,
    metric: Metric,
) -> Neighbors:
    """The k nearest of each query's candidates, by exact value and id.

    Args:
        queries, train: float32 [Q, d] and [n, d].
        ids: int64 [n].
        pairs: the candidates: rows of `queries` int64 [m], ascending, and distinct rows of `train` [m].
        promising: bool [m], at least k of each query.
        closest: float64 [m], the closest value that each candidate can have; one that cannot reach the k-th of the
            promising ones is not looked at.

    Returns:
        As `nearest_of_rows`.
    """
    rows, columns = pairs
    sign = -1 if metric == "l2" else 1
    values = np.full(rows.size, -sign * np.inf)

    def fill(chosen: np.ndarray) -> None:
        values[chosen] = values_of_pairs(queries, train, rows[chosen], columns[chosen], metric)

    first = np.flatnonzero(promising)
    fill(first)
    kth = kth_of_rows(rows[first], sign * values[first], len(queries), k)
    fill(np.flatnonzero((sign * closest >= kth[rows]) & ~promising))
    return nearest_of_rows(rows, values, ids[columns], len(queries), k, metric)


def nearest_of_rows(
    rows: np.ndarray, values: np.ndarray, ids: np.ndarray, total: int, k: int, metric: Metric
) -> Neighbors:
    """The k nearest among the values float64 [m] of each row (int64 [m], ascending), by (value, id).

    Returns:
        Neighbors [total, k]; rows that have fewer values are of no use.
    """
    sign = -1 if metric == "l2" else 1
    kept = np.flatnonzero(sign * values >= kth_of_rows(rows, sign * values, total, k)[rows])
    counts = np.bincount(rows[kept], minlength=total)
    places = np.arange(kept.size) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = total, max(k, int(counts.max(initial=0)))
    found = Neighbors(np.full(shape, np.iinfo(np.int64).max), np.full(shape, -sign * np.inf))
    found.ids[rows[kept], places], found.values[rows[kept], places] = ids[kept], values[kept]
    order = nearest_first(found.values, found.ids, metric)[:, :k]
    return Neighbors(np.take_along_axis(found.ids, order, 1), np.take_along_axis(found.values, order, 1))


def kth_of_rows(rows: np.ndarray, values: np.ndarray, total: int, k: int) -> np.ndarray:
    """The k-th largest value float64 [total] of each row; -inf where there are fewer."""
    best = np.full((total, k), -np.inf)
    compiled.kth_of_rows(rows, values, best)
    return best[:, 0]
