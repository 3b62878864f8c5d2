"""Values of single pairs in float64: what a search reports, whatever found the pair."""

import numpy as np

from side_ray.memorization.neighbors import Metric, Neighbors, nearest_first

CHUNK = 2**19
"""Feature elements that are compared at a time; in float64 they stay in a processor's cache."""


def pair_values(queries: np.ndarray, train: np.ndarray, metric: Metric) -> np.ndarray:
    """Values of aligned rows: float32 [..., d] against float32 [..., d] → float64 [...].

    `l2`: Euclidean distance, exactly 0 for equal rows, and exact before the root for whole numbers (their squares and sums
    stay below 2⁵³). `ip`: inner product clipped to [-1, 1]. A pair's value depends on the pair alone: the sum of a row is
    always taken in the same order.
    """
    rows, others = queries.astype(np.float64), train.astype(np.float64)
    if metric == "ip":
        return np.clip(_dot(rows, others), -1.0, 1.0)
    others -= rows
    return np.sqrt(_dot(others, others))


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # numpy's buffer of 8,192 elements would cut longer rows at places that depend on the rows before them.
    pieces = range(0, max(a.shape[-1], 1), 4096)
    return sum(
        np.einsum("...j,...j->...", a[..., start : start + 4096], b[..., start : start + 4096]) for start in pieces
    )


def values_of_pairs(
    queries: np.ndarray, train: np.ndarray, rows: np.ndarray, columns: np.ndarray, metric: Metric
) -> np.ndarray:
    """float64 [m], values of queries[rows] and train[columns], in chunks of bounded memory."""
    values = np.empty(rows.size)
    step = max(1, CHUNK // queries.shape[1])
    for start in range(0, rows.size, step):
        chosen = slice(start, start + step)
        values[chosen] = pair_values(queries[rows[chosen]], train[columns[chosen]], metric)
    return values


def rank_candidates(
    queries: np.ndarray, train: np.ndarray, ids: np.ndarray, candidates: np.ndarray, k: int, metric: Metric
) -> Neighbors:
    """The k nearest of each query's candidates, by exact value and id.

    Args:
        candidates: int64 [Q, c], columns of `train`, distinct within a row, at least k valid ones; -1 pads.

    Returns:
        Neighbors [Q, k].
    """
    found = Neighbors(np.empty((len(queries), k), np.int64), np.empty((len(queries), k)))
    counts = (candidates >= 0).sum(axis=1)
    # Valid ones to the front, and rows of like counts together, so that little is computed for padding.
    candidates = -np.sort(-candidates, axis=1)
    order = np.argsort(counts, kind="stable")
    start = 0
    while start < len(order):
        step = max(1, CHUNK // (queries.shape[1] * int(counts[order[start]])))
        rows = order[start : start + step]
        columns = candidates[rows, : counts[rows[-1]]]
        values = pair_values(queries[rows][:, None, :], train[np.maximum(columns, 0)], metric)
        values[columns < 0] = np.inf if metric == "l2" else -np.inf
        chosen = nearest_first(values, ids[columns], metric)[:, :k]
        found.ids[rows] = np.take_along_axis(ids[columns], chosen, 1)
        found.values[rows] = np.take_along_axis(values, chosen, 1)
        start += step
    return found
