"""Which training images can still be among the k nearest of each query, and the threshold that spares nearly all others."""

import numpy as np

from side_ray.memorization import compiled


class Candidates:
    """The scores of q queries that can still belong to their k best, given how far a score may be from the true one.

    A true score lies within ε of the query and the slack of the training image of its tile score. The k-th best of the lower
    ends is no better than the k-th best true score, so whatever cannot reach it is out; all else is kept, in no order.

    Args:
        epsilon: float64 [q], with the roundings of `compiled.take`.
        slack: [n], of the scores' dtype, or [0] where the error does not depend on the training image.
        k: at least 1.
        columns, scores: int32 and of the scores' dtype, [q, capacity ≥ k], memory for the candidates; a query with more is
            `lost` (never where the capacity is n).
    """

    def __init__(self, epsilon: np.ndarray, slack: np.ndarray, k: int, columns: np.ndarray, scores: np.ndarray) -> None:
        rows, dtype = len(epsilon), slack.dtype
        least = -np.inf if dtype == np.float32 else np.iinfo(dtype).min
        self.slack = slack
        self.width = -rounded_down(-2 * epsilon, dtype)
        self.threshold = np.full(rows, least, dtype)
        """[q]; what does not reach it with its slack is not taken."""
        self.best = np.full((rows, k), least, dtype)
        self.columns, self.scores = columns, scores
        self.count = np.zeros(rows, np.int64)
        self.lost = np.zeros(rows, bool)

    def take(self, tile: np.ndarray, column: int) -> np.ndarray | None:
        """Take in a tile [q, t] whose first column is training row `column`.

        Returns:
            int64 [q], from where on each row's new entries stand; None where older ones were dropped or rows are lost, so
            that not all which reached the threshold are there.
        """
        before, learn = self.count.copy(), True
        if not before.any() and tile.shape[1] >= self.best.shape[1]:
            self._begin(tile, column)
            learn = False
        dropped = compiled.take(
            tile,
            self.slack,
            column,
            self.width,
            self.threshold,
            self.best,
            self.columns,
            self.scores,
            self.count,
            self.lost,
            learn,
        )
        return None if dropped or self.lost.any() else before

    def _begin(self, tile: np.ndarray, column: int) -> None:
        """The best of a first tile by a partition, which is faster than one after the other."""
        slack, place = self.slack[column : column + tile.shape[1]], tile.shape[1] - self.best.shape[1]
        lowest = tile - slack if slack.size else tile
        # Sorted, it is a heap.
        self.best[:] = np.sort(np.partition(lowest, place, axis=1)[:, place:], axis=1)
        self.threshold[:] = self.best[:, 0] - self.width

    def listed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows int64 [m] (ascending, without the lost), columns int32 [m] and scores [m] of all that is still in."""
        self.count[self.lost] = 0
        compiled.drop_all(self.columns, self.scores, self.count, self.slack, self.threshold)
        rows = np.repeat(np.arange(len(self.count)), self.count)
        places = np.arange(rows.size) - np.repeat(np.cumsum(self.count) - self.count, self.count)
        return rows, self.columns[rows, places], self.scores[rows, places]


def rounded_down(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """float64 → float32 or int32, at most the value, so that comparing with >= loses nothing."""
    if dtype == np.int32:
        return np.floor(np.clip(values, -(2**31) + 1, 2**31 - 1)).astype(np.int32)
    return np.nextafter(values.astype(np.float32), np.float32(-np.inf))
