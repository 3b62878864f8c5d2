"""The best scores of every query so far, and the threshold that spares nearly all others from being looked at."""

from collections.abc import Callable

import numpy as np

EMPTY = np.iinfo(np.int64).min
RANKS = 0xFFFFFFFF
DENSE = 8
"""Survivors per row, in multiples of k, above which a tile's own threshold is taken first."""
HELD = 4096
"""Scores per row that wait to be taken in, at most."""


class TopK:
    """The `width` best (score, rank) of each of q queries, as int64 keys that sort as they should.

    A key's high half is the score (float32 bits in an order-preserving map, or int32), its low half the complement of the
    training image's rank by id: of equal scores the smaller id wins. One partition of plain integers then does what a
    selection with indices would, and numpy's is vectorised.
    """

    def __init__(self, rows: int, k: int, width: int, dtype: type[np.generic]) -> None:
        self.k, self.width, self.dtype = k, width, dtype
        self.keys = np.full((rows, width), EMPTY)
        self.waiting: list[np.ndarray] = []

    def hold(self, rows: np.ndarray, scores: np.ndarray, ranks: np.ndarray) -> None:
        """Note scores (float32 or int32 [m]) of the training images `ranks` for the queries `rows` (ascending)."""
        if not rows.size:
            return
        counts = np.bincount(rows, minlength=len(self.keys))
        position = np.arange(rows.size) - np.repeat(np.cumsum(counts) - counts, counts)
        keys = np.full((len(self.keys), int(counts.max())), EMPTY)
        keys[rows, position] = _encode(scores, ranks)
        self.waiting.append(keys)
        if sum(keys.shape[1] for keys in self.waiting) > HELD:
            self.settle()

    def settle(self) -> None:
        """Take in what waits; only the best `width` of each row stay."""
        if self.waiting:
            together = np.concatenate([self.keys, *self.waiting], axis=1)
            drop = together.shape[1] - self.width
            together.partition(drop, axis=1)
            self.keys = together[:, drop:].copy()
            self.waiting.clear()

    def kth(self) -> np.ndarray:
        """float64 [q], the k-th best score; -inf where there are fewer."""
        keys = np.partition(self.keys, self.width - self.k, axis=1)[:, self.width - self.k]
        return np.where(keys == EMPTY, -np.inf, _decode(keys, self.dtype))

    def may_have_dropped(self, at_least: np.ndarray) -> np.ndarray:
        """bool [q]: whether a score of `at_least` [q] or more may have been pushed out for want of width."""
        worst = self.keys.min(axis=1)
        return (worst != EMPTY) & (_decode(worst, self.dtype) >= at_least)

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores float64 (-inf pads) and ranks int64 [q, width], best first."""
        keys = np.sort(self.keys, axis=1)[:, ::-1]
        return np.where(keys == EMPTY, -np.inf, _decode(keys, self.dtype)), RANKS - (keys & RANKS)


def survivors(
    tile: np.ndarray,
    threshold: np.ndarray,
    needed: np.ndarray | None,
    k: int,
    lowered: Callable[[np.ndarray], np.ndarray],
    mask: np.ndarray,
) -> tuple[np.ndarray, bool]:
    """Flat indices, ascending, of the scores of a tile [q, t] that can still be among the k best of their rows.

    Args:
        threshold: float64 [q], from the tiles before; -inf at first.
        needed: float64 [q], scores from which on all are wanted for another reason.
        lowered: the threshold that follows from k-th best tile scores float64 [q].
        mask: bool [q, t], scratch.

    Returns:
        The indices, and whether all from `needed` on are among them; that is dropped where they would be too many.
    """
    limit = DENSE * k * len(tile)
    wanted = threshold if needed is None else np.minimum(threshold, needed)
    if _mark(tile, wanted, mask) > limit:
        # The k-th largest of group maxima is at most the k-th largest of all, and much cheaper.
        threshold = np.maximum(threshold, lowered(_kth_of_groups(tile, k)))
        wanted = threshold if needed is None else np.minimum(threshold, needed)
        if _mark(tile, wanted, mask) > limit and needed is not None:
            _mark(tile, threshold, mask)
            return np.flatnonzero(mask), bool((threshold <= needed).all())
    return np.flatnonzero(mask), True


def _mark(tile: np.ndarray, threshold: np.ndarray, mask: np.ndarray) -> int:
    np.greater_equal(tile, rounded_down(threshold, tile.dtype)[:, None], out=mask)
    return int(np.count_nonzero(mask))


def _kth_of_groups(tile: np.ndarray, k: int) -> np.ndarray:
    rows, columns = tile.shape
    if columns < k:
        return np.full(rows, -np.inf)
    size = max(1, min(16, columns // (4 * k)))
    groups = columns // size
    maxima = tile[:, : groups * size].reshape(rows, size, groups).max(axis=1) if size > 1 else tile
    return scores_of(np.partition(maxima, maxima.shape[1] - k, axis=1)[:, maxima.shape[1] - k]).astype(np.float64)


def scores_of(tile: np.ndarray) -> np.ndarray:
    """The scores of (some of) a tile, float32 or int32: int16 holds the bits of bfloat16."""
    return (tile.astype(np.int32) << 16).view(np.float32) if tile.dtype == np.int16 else tile


def rounded_down(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """float64 → the tile's dtype, at most the value, so that comparing with >= loses nothing.

    The bits of positive bfloat16 numbers compare like integers, and above those of all negative ones.
    """
    if dtype == np.int32:
        return np.floor(np.clip(values, -(2**31) + 1, 2**31 - 1)).astype(np.int32)
    single = np.nextafter(values.astype(np.float32), np.float32(-np.inf))
    return single if dtype == np.float32 else (single.view(np.int32) >> 16).astype(np.int16)


def _encode(scores: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    high = scores if scores.dtype == np.int32 else _flip(scores.view(np.int32))
    return (high.astype(np.int64) << 32) | (RANKS - ranks)


def _decode(keys: np.ndarray, dtype: type[np.generic]) -> np.ndarray:
    high = (keys >> 32).astype(np.int32)
    return (high if dtype is np.int32 else _flip(high).view(np.float32)).astype(np.float64)


def _flip(bits: np.ndarray) -> np.ndarray:
    # Negative floats order backwards as integers.
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
