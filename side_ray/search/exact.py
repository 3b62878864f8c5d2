"""Float64 values of single pairs of a query and a training image, and the nearest of each query by these values.

These are the values that a search reports, whichever engine found the pairs.
"""

import numpy as np

from side_ray.search.neighbors import Metric, Neighbors, nearest_first

CACHED = 2**16
"""Features of training images that are converted to float64 at a time (512 KiB): they stay in a processor's cache."""
PADDED = 2**18
"""Values that are sorted at a time."""


def values_of_pairs(
    queries: np.ndarray, train: np.ndarray, rows: np.ndarray, columns: np.ndarray, metric: Metric
) -> np.ndarray:
    """float64 [m], values of float32 queries[rows] and train[columns].

    `l2`: Euclidean distance, exactly 0 for equal rows, and exact before the root for whole numbers (their squares and sums
    stay below 2⁵³). `ip`: inner product clipped to [-1, 1]. The value depends on the pair alone: `numpy.sum` adds a
    contiguous row in an order that depends on its length only (pairwise summation). It is fastest where the pairs of a
    query follow each other.
    """
    values = np.empty(rows.size)
    step = max(1, CACHED // train.shape[1])
    block, single = np.empty((step, train.shape[1])), np.empty((step, train.shape[1]), np.float32)
    ends = [*(np.flatnonzero(rows[1:] != rows[:-1]) + 1).tolist(), rows.size] if rows.size else []
    start = 0
    for end in ends:
        query = queries[rows[start]].astype(np.float64)
        while start < end:
            stop = min(start + step, end)
            terms, features = block[: stop - start], single[: stop - start]
            np.take(train, columns[start:stop], axis=0, out=features, mode="clip")
            terms[:] = features
            if metric == "ip":
                terms *= query
            else:
                terms -= query
                np.square(terms, out=terms)
            np.sum(terms, axis=1, out=values[start:stop])
            start = stop
    return np.clip(values, -1.0, 1.0, out=values) if metric == "ip" else np.sqrt(values, out=values)


def write_nearest(found: Neighbors, rows: np.ndarray, values: np.ndarray, ids: np.ndarray, metric: Metric) -> None:
    """Write the k nearest of each of Q queries, by (value, id), among some pairs.

    Args:
        found: [Q, k], written; a query with fewer than k pairs gets values without meaning.
        rows, values, ids: int [m], float64 [m], int64 [m]: the query, the value and the training id of each pair.
    """
    if rows.size and (rows[1:] < rows[:-1]).any():
        order = np.argsort(rows, kind="stable")
        rows, values, ids = rows[order], values[order], ids[order]
    total, k = found.ids.shape
    counts = np.bincount(rows, minlength=total)
    starts = np.concatenate([[0], np.cumsum(counts)])
    width = max(k, int(counts.max(initial=0)))
    height = max(1, PADDED // width)
    for first in range(0, total, height):
        last = min(first + height, total)
        pairs = slice(starts[first], starts[last])
        row, place = rows[pairs] - first, np.arange(pairs.start, pairs.stop) - starts[rows[pairs]]
        padded = np.full((last - first, width), np.inf if metric == "l2" else -np.inf)
        names = np.full((last - first, width), -1)
        padded[row, place], names[row, place] = values[pairs], ids[pairs]
        order = nearest_first(padded, names, metric)[:, :k]
        found.ids[first:last] = np.take_along_axis(names, order, 1)
        found.values[first:last] = np.take_along_axis(padded, order, 1)
