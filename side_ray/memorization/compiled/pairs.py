"""Loops over single pairs of a query and a training image."""

import numpy as np

from side_ray.memorization.compiled import compiled

AT_ONCE = 128
"""Pairs of a query that are put in order together."""


@compiled
def by_blocks(rows: np.ndarray, columns: np.ndarray, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs int64 [m] and int32 [m] by blocks of `height` columns: int64 [m] each, rows, columns and where they stood."""
    place = np.zeros(columns.max() // height + 2, np.int64) if columns.size else np.zeros(1, np.int64)
    for p in range(columns.size):
        place[columns[p] // height + 1] += 1
    for block in range(1, place.size):
        place[block] += place[block - 1]
    ordered, images, origin = (
        np.empty(rows.size, np.int64),
        np.empty(rows.size, np.int64),
        np.empty(rows.size, np.int64),
    )
    for p in range(columns.size):
        block = columns[p] // height
        ordered[place[block]], images[place[block]], origin[place[block]] = rows[p], columns[p], p
        place[block] += 1
    return ordered, images, origin


@compiled
def products(
    queries: np.ndarray, train: np.ndarray, rows: np.ndarray, columns: np.ndarray, origin: np.ndarray, out: np.ndarray
) -> None:
    """out[origin[p]] = ⟨queries[rows[p]], train[columns[p]]⟩ in float64."""
    for p in range(rows.size):
        a, b = queries[rows[p]], train[columns[p]]
        total = 0.0
        for i in range(a.size):
            total += np.float64(a[i]) * np.float64(b[i])
        out[origin[p]] = total


@compiled
def squares(
    queries: np.ndarray, train: np.ndarray, rows: np.ndarray, columns: np.ndarray, origin: np.ndarray, out: np.ndarray
) -> None:
    """out[origin[p]] = ‖queries[rows[p]] − train[columns[p]]‖² in float64."""
    for p in range(rows.size):
        a, b = queries[rows[p]], train[columns[p]]
        total = 0.0
        for i in range(a.size):
            difference = np.float64(a[i]) - np.float64(b[i])
            total += difference * difference
        out[origin[p]] = total


@compiled
def short_products(
    queries: np.ndarray, train: np.ndarray, rows: np.ndarray, columns: np.ndarray, origin: np.ndarray, out: np.ndarray
) -> None:
    """out[origin[p]] = ⟨queries[rows[p]], train[columns[p]]⟩ of int16 rows, in int32."""
    for p in range(rows.size):
        a, b = queries[rows[p]], train[columns[p]]
        total = np.int32(0)
        for i in range(a.size):
            total = np.int32(total + np.int32(np.int32(a[i]) * np.int32(b[i])))
        out[origin[p]] = total


@compiled
def insert(
    count: np.ndarray, keys: np.ndarray, ids: np.ndarray, held: np.ndarray, best: np.ndarray, best_ids: np.ndarray
) -> None:
    """Keep the k least (key, id) of each row in order.

    Args:
        count: int64 [q], how many of the keys float64 and ids int64 [m] each row has, row after row; ids of a row are distinct.
        held: int64 [q], how many it has kept so far, updated.
        best, best_ids: float64 and int64 [q, k], updated.
    """
    k = best.shape[1]
    room = k + AT_ONCE
    key, number, start = np.empty(room), np.empty(room, np.int64), 0
    for i in range(count.size):
        stop = start + count[i]
        while start < stop:
            size = held[i]
            key[:size], number[:size] = best[i, :size], best_ids[i, :size]
            farthest = best[i, k - 1] if size == k else np.inf
            while start < stop and size < room:
                key[size], number[size] = keys[start], ids[start]
                size += keys[start] <= farthest
                start += 1
            if size == held[i]:
                continue
            # Each goes to where it belongs, which is how many come before it: no branch depends on their order.
            for a in range(size):
                before, own, name = 0, key[a], number[a]
                for b in range(size):
                    before += (key[b] < own) | ((key[b] == own) & (number[b] < name))
                if before < k:
                    best[i, before], best_ids[i, before] = own, name
            held[i] = min(size, k)
