"""Loops over single pairs of a query and a training image."""

import numpy as np

from side_ray.search.cpu_int8.compiler import compiled

AT_ONCE = 128
"""Pairs of a query that are put in order together."""


@compiled
def by_blocks(rows: np.ndarray, columns: np.ndarray, height: int, ordered: np.ndarray) -> None:
    """Put pairs of rows and columns, int64 or int32 [m], in the order of blocks of `height` columns.

    Args:
        ordered: int32 [3, m], written: their rows, their columns, and where they stood.
    """
    place = np.zeros(columns.max() // height + 2 if columns.size else 1, np.int64)
    for p in range(columns.size):
        place[columns[p] // height + 1] += 1
    for block in range(1, place.size):
        place[block] += place[block - 1]
    for p in range(columns.size):
        block = columns[p] // height
        ordered[0, place[block]], ordered[1, place[block]], ordered[2, place[block]] = rows[p], columns[p], p
        place[block] += 1


@compiled
def products(queries: np.ndarray, train: np.ndarray, ordered: np.ndarray, out: np.ndarray) -> None:
    """⟨q, x⟩ of the pairs in float64, each where it stood; for `ordered` see `by_blocks`."""
    for p in range(ordered.shape[1]):
        a, b = queries[ordered[0, p]], train[ordered[1, p]]
        total = 0.0
        for i in range(a.size):
            total += np.float64(a[i]) * np.float64(b[i])
        out[ordered[2, p]] = total


@compiled
def squares(queries: np.ndarray, train: np.ndarray, ordered: np.ndarray, out: np.ndarray) -> None:
    """‖q − x‖² in float64, likewise."""
    for p in range(ordered.shape[1]):
        a, b = queries[ordered[0, p]], train[ordered[1, p]]
        total = 0.0
        for i in range(a.size):
            difference = np.float64(a[i]) - np.float64(b[i])
            total += difference * difference
        out[ordered[2, p]] = total


@compiled
def short_products(queries: np.ndarray, train: np.ndarray, ordered: np.ndarray, out: np.ndarray) -> None:
    """⟨q, x⟩ of int16 rows in int32, likewise."""
    for p in range(ordered.shape[1]):
        a, b = queries[ordered[0, p]], train[ordered[1, p]]
        total = np.int32(0)
        for i in range(a.size):
            total = np.int32(total + np.int32(np.int32(a[i]) * np.int32(b[i])))
        out[ordered[2, p]] = total


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
