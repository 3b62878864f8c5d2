"""The best scores of every query so far, and the threshold that spares nearly all others from being looked at."""

from collections.abc import Callable

import numpy as np

EMPTY = np.iinfo(np.int64).min
DENSE = 8
"""Survivors per row, in multiples of the width kept, above which a tile's own threshold is taken first."""


class TopK:
    """The `width` best (score, column) of each of q queries, as int64 keys that sort as they should.

    A key's high half is the score (float32 bits in an order-preserving map, or int32), its low half the complement of the
    training image's rank by id: of equal scores the smaller id wins. One partition of plain integers then does what a
    selection with indices would.
    """

    def __init__(self, rows: int, k: int, width: int) -> None:
        self.k, self.width = k, width
        self.keys = np.full((rows, width), EMPTY)

    def kth(self, dtype: type[np.generic]) -> np.ndarray:
        """float64 [q], the k-th best score so far; -inf where there are fewer."""
        keys = np.partition(self.keys, self.width - self.k, axis=1)[:, self.width - self.k]
        return np.where(keys == EMPTY, -np.inf, _decode(keys, dtype))

    def push(self, rows: np.ndarray, scores: np.ndarray, ranks: np.ndarray) -> None:
        """Take in scores (float32 or int32 [m]) of the training images `ranks` for the queries `rows` (ascending)."""
        if not rows.size:
            return
        counts = np.bincount(rows, minlength=len(self.keys))
        position = np.arange(rows.size) - np.repeat(np.cumsum(counts) - counts, counts)
        together = np.full((len(self.keys), self.width + int(counts.max())), EMPTY)
        together[:, : self.width] = self.keys
        together[rows, self.width + position] = _encode(scores, ranks)
        drop = together.shape[1] - self.width
        self.keys = np.partition(together, drop, axis=1)[:, drop:]

    def candidates(self, at_least: np.ndarray, dtype: type[np.generic]) -> np.ndarray:
        """int64 [q, width], ranks of the kept images whose score reaches `at_least` [q]; -1 for the others."""
        ranks = 0xFFFFFFFF - (self.keys & 0xFFFFFFFF)
        kept = (self.keys != EMPTY) & (_decode(self.keys, dtype) >= at_least[:, None])
        return np.where(kept, ranks, -1)

    def may_have_dropped(self, at_least: np.ndarray, dtype: type[np.generic]) -> np.ndarray:
        """bool [q]: whether a score of `at_least` [q] or more may have been pushed out for want of width."""
        worst = self.keys.min(axis=1)
        return (worst != EMPTY) & (_decode(worst, dtype) >= at_least)

    def best(self, dtype: type[np.generic]) -> tuple[np.ndarray, np.ndarray]:
        """Scores float64 and ranks int64 [q, width], best first."""
        keys = -np.sort(-self.keys, axis=1)
        return _decode(keys, dtype), 0xFFFFFFFF - (keys & 0xFFFFFFFF)


def survivors(
    tile: np.ndarray, threshold: np.ndarray, k: int, lowered: Callable[[np.ndarray], np.ndarray], mask: np.ndarray
) -> np.ndarray:
    """Flat indices, ascending, of the scores of a tile [q, t] that can still be among the k best of their rows.

    Args:
        threshold: float64 [q], from the tiles before; -inf at first.
        lowered: the threshold that follows from k-th best tile scores float64 [q].
        mask: bool [q, t], scratch.
    """
    np.greater_equal(tile, rounded_down(threshold, tile.dtype)[:, None], out=mask)
    if np.count_nonzero(mask) > DENSE * k * len(tile):
        # The k-th largest of group maxima is at most the k-th largest of all, and much cheaper.
        threshold = np.maximum(threshold, lowered(_kth_of_groups(tile, k)))
        np.greater_equal(tile, rounded_down(threshold, tile.dtype)[:, None], out=mask)
    return np.flatnonzero(mask)


def _kth_of_groups(tile: np.ndarray, k: int) -> np.ndarray:
    rows, columns = tile.shape
    if columns < k:
        return np.full(rows, -np.inf)
    size = max(1, min(16, columns // (4 * k)))
    groups = columns // size
    maxima = tile[:, : groups * size].reshape(rows, size, groups).max(axis=1) if size > 1 else tile
    return np.partition(maxima, maxima.shape[1] - k, axis=1)[:, maxima.shape[1] - k].astype(np.float64)


def rounded_down(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """float64 → the tile's dtype, at most the value, so that comparing with >= loses nothing."""
    if dtype == np.int32:
        return np.floor(np.clip(values, -(2**31) + 1, 2**31 - 1)).astype(np.int32)
    return np.nextafter(values.astype(np.float32), np.float32(-np.inf))


def _encode(scores: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    high = scores if scores.dtype == np.int32 else _flip(scores.view(np.int32))
    return (high.astype(np.int64) << 32) | (0xFFFFFFFF - ranks)


def _decode(keys: np.ndarray, dtype: type[np.generic]) -> np.ndarray:
    high = (keys >> 32).astype(np.int32)
    return (high if dtype is np.int32 else _flip(high).view(np.float32)).astype(np.float64)


def _flip(bits: np.ndarray) -> np.ndarray:
    # Negative floats order backwards as integers.
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
