"""Which training images can still be among the k nearest of each query, and the threshold that spares nearly all others."""

import copy
from collections.abc import Callable
from functools import partial

import numpy as np

from side_ray.search.cpu_int8 import tiles
from side_ray.search.memory import empty

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
        lanes = -(-LANES_PER_NEIGHBOR * k // tiles.LANES) + 1
        self.held = tiles.Held(
            k=k,
            slack=slack,
            width=-rounded_down(-2 * epsilon, dtype),
            floor=np.full(rows, least, dtype),
            threshold=np.full(rows, least, dtype),
            lanes=empty((rows, lanes * tiles.LANES), dtype),
            columns=columns,
            scores=scores,
            taken=np.zeros(rows, np.int64),
            lost=np.zeros(rows, bool),
        )
        self.held.lanes[:] = least

    @property
    def lost(self) -> np.ndarray:
        """bool [q], queries with too many candidates."""
        return self.held.lost

    def take(self, tile: np.ndarray, column: int) -> np.ndarray | None:
        """Take in a tile [q, t] whose first column is training row `column`.

        Returns:
            int64 [q], from where on each row's new entries stand; None where older ones were dropped or rows are lost, so
            that not all which reached the threshold are there.
        """
        return self.take_by(partial(tiles.take, tile), column)

    def take_by(self, step: Callable[[int, tiles.Held], bool], column: int) -> np.ndarray | None:
        """As `take`, by a function of what `tiles.take` is told besides the tile."""
        tiles.make_room(self.held)
        before = self.held.taken.copy()
        dropped = step(column, self.held)
        return None if dropped or self.lost.any() else before

    def part(self, rows: slice) -> "Candidates":
        """Those of some of the queries, in the same memory."""
        part = copy.copy(self)
        held = self.held
        parts = {name: each[rows] for name, each in held._asdict().items() if name not in ("k", "slack")}
        part.held = held._replace(**parts)
        return part

    def promising(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """At least k of each query's candidates (none of a lost one), among which those with the best scores.

        Returns:
            int64 [q], how many of each query; int32 [m] and [m], their training rows and scores, query after query.
        """
        self.held.taken[self.lost] = 0
        return tiles.promising(self.held)

    def others(self, epsilon: np.ndarray, lowest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is not `promising`, but can have a true score of `lowest` float64 [q]; returned likewise, without scores."""
        return tiles.others(self.held, rounded_down(lowest - epsilon, self.held.slack.dtype))


def rounded_down(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """float64 → float32 or int32, at most the value, so that comparing with >= loses nothing."""
    if dtype == np.int32:
        return np.floor(np.clip(values, -(2**31) + 1, 2**31 - 1)).astype(np.int32)
    return np.nextafter(values.astype(np.float32), np.float32(-np.inf))
