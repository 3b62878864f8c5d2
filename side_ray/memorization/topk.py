"""Which training images can still be among the k nearest of each query, and the threshold that spares nearly all others."""

import copy
from collections.abc import Callable
from functools import partial

import numpy as np

from side_ray.memorization.compiled import tiles
from side_ray.memorization.memory import empty

LANES_PER_NEIGHBOR = 5
"""Enough for a threshold that few more than k reach."""


class Candidates:
    """The scores of q queries that can still belong to their k best, given how far a score may be from the true one.

    A true score lies within ε of the query and the slack of the training image of its tile score. The k-th best of the lower
    ends is no better than the k-th best true score, so whatever cannot reach it is out; all else is kept, in no order.

    Args:
        epsilon: float64 [q], with the roundings of `tiles.take`.
        slack: [n], of the scores' dtype.
        k: at least 1.
        columns, scores: int32 and of the scores' dtype, [q, capacity + `tiles.SPARE`], memory for the candidates; a query with
            more than the capacity may be `lost` (never where that is n).
    """

    def __init__(self, epsilon: np.ndarray, slack: np.ndarray, k: int, columns: np.ndarray, scores: np.ndarray) -> None:
        rows, dtype = len(epsilon), slack.dtype
        least = -np.inf if dtype == np.float32 else np.iinfo(dtype).min
        self.slack, self.k = slack, k
        self.width = -rounded_down(-2 * epsilon, dtype)
        self.floor = np.full(rows, least, dtype)
        """[q]; at least k lower ends of those taken reach it."""
        self.threshold = np.full(rows, least, dtype)
        """[q]; what does not reach it with its slack is not taken."""
        lanes = -(-LANES_PER_NEIGHBOR * k // tiles.LANES) + 1
        self.lanes = empty((rows, lanes * tiles.LANES), dtype)
        self.lanes[:] = least
        self.columns, self.scores = columns, scores
        self.count = np.zeros(rows, np.int64)
        self.lost = np.zeros(rows, bool)

    def take(self, tile: np.ndarray, column: int) -> np.ndarray | None:
        """Take in a tile [q, t] whose first column is training row `column`.

        Returns:
            int64 [q], from where on each row's new entries stand; None where older ones were dropped or rows are lost, so
            that not all which reached the threshold are there.
        """
        return self.take_by(partial(tiles.take, tile), column)

    def take_by(self, step: Callable[..., bool], column: int) -> np.ndarray | None:
        """As `take`, by a function of what `tiles.take` is told besides the tile."""
        tiles.make_room(self.columns, self.scores, self.count, self.slack, self.threshold)
        before = self.count.copy()
        dropped = step(
            self.slack,
            column,
            self.k,
            self.width,
            self.floor,
            self.threshold,
            self.lanes,
            self.columns,
            self.scores,
            self.count,
            self.lost,
        )
        return None if dropped or self.lost.any() else before

    def part(self, rows: slice) -> "Candidates":
        """Those of some of the queries, in the same memory."""
        part = copy.copy(self)
        for name in ("width", "floor", "threshold", "lanes", "columns", "scores", "count", "lost"):
            setattr(part, name, getattr(self, name)[rows])
        return part

    def promising(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """At least k of each query's candidates (none of a lost one), among which those with the best scores.

        Returns:
            int64 [q], how many of each query; int32 [m] and [m], their training rows and scores, query after query.
        """
        self.count[self.lost] = 0
        return tiles.promising(
            self.k,
            self.slack,
            self.width,
            self.floor,
            self.threshold,
            self.lanes,
            self.columns,
            self.scores,
            self.count,
        )

    def others(self, epsilon: np.ndarray, lowest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is not `promising`, but can have a true score of `lowest` float64 [q]; returned likewise, without scores."""
        bound = rounded_down(lowest - epsilon, self.slack.dtype)
        return tiles.others(self.slack, bound, self.floor, self.columns, self.scores, self.count)


def rounded_down(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """float64 → float32 or int32, at most the value, so that comparing with >= loses nothing."""
    if dtype == np.int32:
        return np.floor(np.clip(values, -(2**31) + 1, 2**31 - 1)).astype(np.int32)
    return np.nextafter(values.astype(np.float32), np.float32(-np.inf))
