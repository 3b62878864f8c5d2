"""The search's inner loops, which numpy can only take in several passes over memory; compiled by numba on first use.

None holds the GIL. Sums are taken in lanes (`reassoc`), in an order that depends on the length of the rows alone.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit


def _compiled(function: Callable[..., Any]) -> Any:
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to write a cache
        return njit(**options)(function)


@_compiled
def products(
    queries: np.ndarray, train: np.ndarray, rows: np.ndarray, columns: np.ndarray, order: np.ndarray, out: np.ndarray
) -> None:
    """out[p] = ⟨queries[rows[p]], train[columns[p]]⟩ in float64, the pairs visited in `order`."""
    for p in order:
        a, b = queries[rows[p]], train[columns[p]]
        total = 0.0
        for i in range(a.size):
            total += np.float64(a[i]) * np.float64(b[i])
        out[p] = total


@_compiled
def squares(
    queries: np.ndarray, train: np.ndarray, rows: np.ndarray, columns: np.ndarray, order: np.ndarray, out: np.ndarray
) -> None:
    """out[p] = ‖queries[rows[p]] − train[columns[p]]‖² in float64, the pairs visited in `order`."""
    for p in order:
        a, b = queries[rows[p]], train[columns[p]]
        total = 0.0
        for i in range(a.size):
            difference = np.float64(a[i]) - np.float64(b[i])
            total += difference * difference
        out[p] = total


@_compiled
def double_less(tile: np.ndarray, norms: np.ndarray) -> None:
    """tile[i, j] ← 2 · tile[i, j] − norms[j], int32 [q, t] and [t]."""
    for i in range(tile.shape[0]):
        for j in range(tile.shape[1]):
            tile[i, j] = np.int32(np.int32(2) * tile[i, j]) - norms[j]


@_compiled
def quantize(rows: np.ndarray, rounded: np.ndarray, scales: np.ndarray, lengths: np.ndarray, lost: np.ndarray) -> None:
    """Round float32 [N, d] to int8 times a scale of each row.

    Args:
        rounded, scales: int8 [N, d] and float32 [N], written.
        lengths, lost: float64 [N], written: ‖scale · rounded‖, and the length of what it lacks of the row.
    """
    for i in range(rows.shape[0]):
        largest = np.float32(0)
        for j in range(rows.shape[1]):
            largest = max(largest, abs(rows[i, j]))
        scale = largest / np.float32(127) if largest > 0 else np.float32(1)
        kept, missing = 0.0, 0.0
        for j in range(rows.shape[1]):
            value = np.rint(rows[i, j] / scale)
            value = min(max(value, np.float32(-127)), np.float32(127))
            rounded[i, j] = np.int8(value)
            near = np.float64(value) * np.float64(scale)
            kept += near * near
            missing += (np.float64(rows[i, j]) - near) ** 2
        scales[i], lengths[i], lost[i] = scale, np.sqrt(kept), np.sqrt(missing)


@_compiled
def dequantize(tile: np.ndarray, row_scales: np.ndarray, column_scales: np.ndarray, out: np.ndarray) -> None:
    """out[i, j] = tile[i, j] · row_scales[i] · column_scales[j]; int32 [q, t] → float32 [q, t]."""
    for i in range(tile.shape[0]):
        scale = row_scales[i]
        for j in range(tile.shape[1]):
            out[i, j] = np.float32(tile[i, j]) * (column_scales[j] * scale)


@_compiled
def take(
    tile: np.ndarray,
    slack: np.ndarray,
    start: int,
    width: np.ndarray,
    threshold: np.ndarray,
    best: np.ndarray,
    columns: np.ndarray,
    scores: np.ndarray,
    count: np.ndarray,
    lost: np.ndarray,
    learn: bool,
) -> bool:
    """Append the scores of a tile that can reach their row's threshold, and raise the thresholds with them.

    Args:
        tile: [q, t], float32 or int32, as all of these but the columns.
        slack: [n], added to a score before it is compared, or [0] for none.
        start: training row of the tile's first column.
        width: [q], how far a threshold stays below the least of `best`.
        threshold: [q], updated.
        best: [q, k], the best lower ends (score − slack) of each row as a binary heap, the least one first; updated.
        columns, scores: [q, capacity], appended to.
        count: int64 [q], how many each row holds; updated.
        lost: bool [q], rows that had no room; updated.
        learn: whether `best` does not know these scores yet.

    Returns:
        Whether entries were dropped to make room.
    """
    dropped = False
    mask = np.zeros((tile.shape[1] + 7) // 8 * 8, np.uint8)
    # Nearly all scores fail: eight answers are looked at together.
    words = mask.view(np.uint64)
    places = np.empty(mask.size, np.uint32)
    capacity, halves = columns.shape[1], slack[start : start + tile.shape[1]]
    for i in range(tile.shape[0]):
        if lost[i]:
            continue
        row, heap, taken, kept = tile[i], best[i], columns[i], scores[i]
        bound, held, below = threshold[i], count[i], width[i]
        if slack.size:
            for j in range(row.size):
                mask[j] = row[j] + halves[j] >= bound
        else:
            for j in range(row.size):
                mask[j] = row[j] >= bound
        found = 0
        for word in range(words.size):
            if words[word]:
                # Without branches, which no processor could predict.
                for j in range(8 * word, 8 * word + 8):
                    places[found] = j
                    found += mask[j]
        for j in places[:found]:
            score = row[j]
            half = halves[j] if slack.size else slack.dtype.type(0)
            if score + half < bound:
                continue
            if held == capacity:
                held, dropped = drop(taken, kept, held, slack, bound), True
            if held == capacity:
                lost[i] = True
                break
            taken[held], kept[held] = start + j, score
            held += 1
            if learn and score - half > heap[0]:
                _replace_least(heap, score - half)
                bound = heap.dtype.type(heap[0] - below)
        threshold[i], count[i] = bound, held
    return dropped


@_compiled
def drop(columns: np.ndarray, scores: np.ndarray, held: int, slack: np.ndarray, threshold: float) -> int:
    """Keep, in their order, the entries of a row whose score + slack[column] reaches the threshold; returns how many."""
    kept = 0
    for c in range(held):
        column, score = columns[c], scores[c]
        half = slack[column] if slack.size else slack.dtype.type(0)
        if score + half >= threshold:
            columns[kept], scores[kept] = column, score
            kept += 1
    return kept


@_compiled
def drop_all(
    columns: np.ndarray, scores: np.ndarray, count: np.ndarray, slack: np.ndarray, threshold: np.ndarray
) -> None:
    """`drop` in every row of [q, capacity]; `count` is updated."""
    for i in range(count.size):
        count[i] = drop(columns[i], scores[i], count[i], slack, threshold[i])


@_compiled
def kth_of_rows(rows: np.ndarray, values: np.ndarray, best: np.ndarray) -> None:
    """Leave in best[i, 0] the k-th largest of the float64 values [m] of row i; `best` float64 [q, k] holds -inf."""
    for p in range(rows.size):
        if values[p] > best[rows[p], 0]:
            _replace_least(best[rows[p]], values[p])


@_compiled
def _replace_least(heap: np.ndarray, value: float) -> None:
    place = 0
    while True:
        child = 2 * place + 1
        if child >= heap.size:
            break
        if child + 1 < heap.size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = value


@_compiled
def listed(
    scores: np.ndarray, before: np.ndarray, count: np.ndarray, lowest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and places (int64 [m] each) of the entries from `before` to `count` whose score is at least `lowest` [q]."""
    total = 0
    for i in range(scores.shape[0]):
        for c in range(before[i], count[i]):
            total += scores[i, c] >= lowest[i]
    rows, places = np.empty(total, np.int64), np.empty(total, np.int64)
    found = 0
    for i in range(scores.shape[0]):
        for c in range(before[i], count[i]):
            if scores[i, c] >= lowest[i]:
                rows[found], places[found] = i, c
                found += 1
    return rows, places
