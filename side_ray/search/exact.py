"""Values of single pairs in float64: what a search reports, whatever found the pair."""

import numpy as np

from side_ray.search.cpu_int8 import pairs
from side_ray.search.memory import Scratch, borrowed
from side_ray.search.neighbors import Metric, Neighbors

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
    with borrowed() as scratch:
        ordered = in_blocks(rows, columns, max(1, CACHED // train.shape[1]), scratch)
        (pairs.products if metric == "ip" else pairs.squares)(queries, train, ordered, values)
    return np.clip(values, -1.0, 1.0, out=values) if metric == "ip" else np.sqrt(values, out=values)


def rows_of(count: np.ndarray) -> np.ndarray:
    """int32 [m], the query of each pair, where query i has count[i] of them, one query after the other."""
    return np.repeat(np.arange(len(count), dtype=np.int32), count)


def in_blocks(rows: np.ndarray, columns: np.ndarray, height: int, scratch: Scratch) -> np.ndarray:
    """Pairs as the loops of `compiled.pairs` take them, in the order in which `height` training rows serve many."""
    ordered = scratch.get("pairs", 3, columns.size, np.int32)
    pairs.by_blocks(rows, columns, height, ordered)
    return ordered


class Nearest:
    """The k nearest of each of Q queries, by (value, id), among the pairs that are added.

    Args:
        found: where they are written, [Q, k]; what stands there for those that are missing is of no use.
    """

    def __init__(self, found: Neighbors, metric: Metric) -> None:
        self.found, self.sign = found, 1 if metric == "l2" else -1
        self.held = np.zeros(len(found.ids), np.int64)
        # While pairs are added, less is nearer.
        found.values[:], found.ids[:] = np.inf, np.iinfo(np.int64).max

    def add(self, count: np.ndarray, values: np.ndarray, ids: np.ndarray) -> None:
        """Pairs, each once: int64 [Q], how many each query has; their values float64 [m] and training ids int64 [m]."""
        pairs.insert(count, self.sign * values, ids, self.held, self.found.values, self.found.ids)

    @property
    def farthest(self) -> np.ndarray:
        """float64 [Q], the value of the k-th so far."""
        return self.sign * self.found.values[:, -1]

    def finish(self) -> None:
        """After the last pair."""
        np.multiply(self.found.values, self.sign, out=self.found.values)
