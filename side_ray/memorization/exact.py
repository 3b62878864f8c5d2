"""Values of single pairs in float64: what a search reports, whatever found the pair."""

import numpy as np

from side_ray.memorization.neighbors import Metric, Neighbors, nearest_first

CHUNK = 2**17
"""Feature elements that are compared at a time; in float64 they stay in a processor's cache."""
PIECE = 4096


def pair_values(queries: np.ndarray, train: np.ndarray, metric: Metric) -> np.ndarray:
    """Values of float64 [..., 1, d] against float64 [..., c, d] (overwritten) → float64 [..., c].

    `l2`: Euclidean distance, exactly 0 for equal rows, and exact before the root for whole numbers (their squares and sums
    stay below 2⁵³). `ip`: inner product clipped to [-1, 1]. A pair's value depends on the pair alone: the sum of a row is
    always taken in the same order.
    """
    if metric == "ip":
        return np.clip(_dot(queries, train), -1.0, 1.0)
    train -= queries
    return np.sqrt(_dot(train, train))


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # Longer rows would be shared by the threads of BLAS, and the order of summation with them.
    total = np.vecdot(a[..., :PIECE], b[..., :PIECE])
    for start in range(PIECE, a.shape[-1], PIECE):
        total += np.vecdot(a[..., start : start + PIECE], b[..., start : start + PIECE])
    return total


def values_of_pairs(
    queries: np.ndarray, train: np.ndarray, rows: np.ndarray, columns: np.ndarray, metric: Metric
) -> np.ndarray:
    """float64 [m], values of float32 queries[rows] and train[columns], in chunks of bounded memory."""
    values = np.empty(rows.size)
    step = max(1, CHUNK // queries.shape[1])
    for start in range(0, rows.size, step):
        chosen = slice(start, start + step)
        left, right = (side.astype(np.float64)[:, None] for side in (queries[rows[chosen]], train[columns[chosen]]))
        values[chosen] = pair_values(left, right, metric)[:, 0]
    return values


def rank_candidates(
    queries: np.ndarray,
    train: np.ndarray,
    ids: np.ndarray,
    candidates: np.ndarray,
    closest: np.ndarray,
    k: int,
    metric: Metric,
) -> Neighbors:
    """The k nearest of each query's candidates, by exact value and id.

    Args:
        queries, train: float32 [Q, d] and [n, d].
        ids: int64 [n].
        candidates: int64 [Q, c], rows of `train`, distinct, at least k of them, most promising first; -1 pads at the end.
        closest: float64 [Q, c], the closest value that each candidate can have; one that cannot reach the k-th of the
            first k is not looked at.

    Returns:
        Neighbors [Q, k].
    """
    worst = np.inf if metric == "l2" else -np.inf
    values = np.full(candidates.shape, worst)
    every = np.arange(len(queries))
    _fill(values[:, :k], queries, train, candidates[:, :k], every, metric)
    reached = (
        closest <= values[:, :k].max(axis=1)[:, None]
        if metric == "l2"
        else closest >= values[:, :k].min(axis=1)[:, None]
    )
    rest = np.where(reached & (candidates >= 0), candidates, -1)[:, k:]
    counts = (rest >= 0).sum(axis=1)
    # To the front, and rows of like counts together, so that little is computed for padding.
    front = np.argsort(rest < 0, axis=1, kind="stable")
    later = np.full(rest.shape, worst)
    order = np.argsort(counts, kind="stable")[np.count_nonzero(counts == 0) :]
    _fill(later, queries, train, np.take_along_axis(rest, front, 1), order, metric)
    np.put_along_axis(values[:, k:], front, later, 1)
    found = np.where(values != worst, ids[candidates], np.iinfo(np.int64).max)
    chosen = nearest_first(values, found, metric)[:, :k]
    return Neighbors(np.take_along_axis(found, chosen, 1), np.take_along_axis(values, chosen, 1))


def _fill(
    values: np.ndarray,
    queries: np.ndarray,
    train: np.ndarray,
    candidates: np.ndarray,
    order: np.ndarray,
    metric: Metric,
) -> None:
    """Write the exact values of the candidates (-1 at a row's end pads) of the rows `order`, ascending in their number."""
    dimension = queries.shape[1]
    counts = (candidates >= 0).sum(axis=1)
    room = max(CHUNK, dimension)
    single, double = np.empty(room, np.float32), np.empty(room)
    start = 0
    while start < len(order):
        step = max(1, room // (dimension * int(counts[order[start]])))
        rows = order[start : start + step]
        start += step
        left = queries[rows].astype(np.float64)[:, None, :]
        width = max(1, room // (dimension * rows.size))
        for column in range(0, int(counts[rows[-1]]), width):
            columns = candidates[rows, column : column + width]
            # Into memory that is in the cache already; `clip` spares a buffer of numpy's, and reads row 0 for padding.
            gathered = single[: columns.size * dimension].reshape(columns.size, dimension)
            np.take(train, columns.ravel(), axis=0, out=gathered, mode="clip")
            right = double[: gathered.size].reshape(*columns.shape, dimension)
            right[...] = gathered.reshape(right.shape)
            exact = pair_values(left, right, metric)
            values[rows, column : column + width] = np.where(columns >= 0, exact, values[rows, column : column + width])
