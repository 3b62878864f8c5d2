"""Which training images can still be among the k nearest of each query."""

from typing import NamedTuple

import numpy as np
import torch


class Pairs(NamedTuple):
    """Pairs of a block of queries and the training images."""

    rows: np.ndarray
    """int64 [m], of the block, ascending."""
    columns: np.ndarray
    """integers [m], training rows."""
    scores: np.ndarray
    """[m], a kernel's."""


class Candidates:
    """The pairs of q queries that can belong to their k best, given that a true score lies within ε of its tile score.

    The k-th best true score is at least the k-th best tile score less ε, so what lies more than 2 ε below the k-th best tile
    score cannot be among the k best. Everything else is kept.

    Args:
        epsilon: float64 [q].
        k: at least 1.
        width: a query with more candidates than this is given up (`lost`).
    """

    def __init__(self, epsilon: np.ndarray, k: int, width: int) -> None:
        self.epsilon, self.width = epsilon, width
        self.best = np.full((len(epsilon), k), -np.inf, np.float32)
        self.threshold = np.full(len(epsilon), -np.inf, np.float32)
        """[q], what a score must reach."""
        self.lost = np.zeros(len(epsilon), bool)
        self._taken = np.zeros(len(epsilon), np.int64)
        self._pairs: list[Pairs] = []

    def take(self, tile: np.ndarray, column: int, mask: np.ndarray) -> Pairs:
        """Take in a tile float32 [q, t] whose first column is training row `column`.

        Args:
            mask: bool [q, t], scratch.

        Returns:
            All pairs of the tile that reach `threshold` as it was before the call, or as the first tile alone sets it.
        """
        first = not self._pairs
        if first:
            size = min(self.best.shape[1], tile.shape[1])
            self._raise(torch.topk(torch.from_numpy(tile), size, dim=1, sorted=False).values.numpy())
        pairs = reaching(tile, column, self.threshold, mask)
        if not first:
            self._raise(_padded(pairs, len(tile)))
        self._keep(pairs)
        return pairs

    def result(self) -> Pairs:
        """All candidates, those of a query one after the other; none of a lost query."""
        self._drop()
        pairs = self._pairs[0]
        order = np.argsort(pairs.rows, kind="stable")
        return Pairs(*(each[order] for each in pairs))

    def _raise(self, scores: np.ndarray) -> None:
        """Raise the thresholds by more scores float32 [q, any]."""
        k = self.best.shape[1]
        both = torch.from_numpy(np.concatenate([self.best, scores], axis=1))
        self.best = torch.topk(both, k, dim=1, sorted=False).values.numpy()
        lowest = self.best.min(axis=1).astype(np.float64)
        self.threshold = rounded_down(lowest - 2 * self.epsilon, np.dtype(np.float32))
        self.threshold[self.lost] = np.inf

    def _keep(self, pairs: Pairs) -> None:
        kept = pairs.scores >= self.threshold[pairs.rows]
        self._pairs.append(Pairs(*(each[kept] for each in pairs)))
        self._taken += np.bincount(self._pairs[-1].rows, minlength=len(self._taken))
        if (self._taken > self.width).any():
            self._drop()

    def _drop(self) -> None:
        """Drop what no longer reaches the threshold, and the queries that have too many candidates all the same."""
        pairs = Pairs(*(np.concatenate(parts) for parts in zip(*self._pairs, strict=True)))
        kept = pairs.scores >= self.threshold[pairs.rows]
        self.lost |= np.bincount(pairs.rows[kept], minlength=len(self._taken)) > self.width
        self.threshold[self.lost] = np.inf
        kept &= ~self.lost[pairs.rows]
        self._pairs = [Pairs(*(each[kept] for each in pairs))]
        self._taken = np.bincount(self._pairs[0].rows, minlength=len(self._taken))


def reaching(tile: np.ndarray, column: int, bound: np.ndarray, mask: np.ndarray) -> Pairs:
    """The pairs of a tile [q, t], first column training row `column`, whose score is at least `bound` [q]; `mask` is scratch."""
    np.greater_equal(tile, bound[:, None], out=mask)
    rows, columns = np.divmod(np.flatnonzero(mask), tile.shape[1])
    return Pairs(rows, columns + column, tile[rows, columns])


def rounded_down(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """float64 → float32 or int32, at most the value, so that comparing with >= loses nothing."""
    if dtype == np.int32:
        return np.floor(np.clip(values, -(2**31) + 1, 2**31 - 1)).astype(np.int32)
    return np.nextafter(values.astype(np.float32), np.float32(-np.inf))


def _padded(pairs: Pairs, total: int) -> np.ndarray:
    """The scores of each query in a row of their own, float32 [total, any], filled up with -inf."""
    counts = np.bincount(pairs.rows, minlength=total)
    starts = np.cumsum(counts) - counts
    scores = np.full((total, int(counts.max(initial=0))), -np.inf, np.float32)
    scores[pairs.rows, np.arange(pairs.rows.size) - starts[pairs.rows]] = pairs.scores
    return scores
