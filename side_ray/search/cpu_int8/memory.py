"""The arrays that the loops of `tiles` read and write, with the padding that they rely on."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import DTypeLike

from side_ray.search.candidates import rounded_down
from side_ray.search.cpu_int8 import tiles

LANES_PER_NEIGHBOR = 5
"""Enough for a threshold that few more than k scores reach."""


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """As `numpy.empty`, but by torch, so that it begins at a cache line: vectors that cross one are slow."""
    return torch.empty(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype).numpy()


class Panels(NamedTuple):
    """Queries for `tiles.multiply`."""

    rows: np.ndarray
    """int8 [≥ q, ≥ d], padded with zeros."""
    base: np.ndarray
    """int32 [≥ q]."""


def panels_of_queries(rows: np.ndarray) -> Panels:
    """int8 [q, d] as `tiles.multiply` takes queries."""
    height, width = -(-len(rows) // tiles.ROWS) * tiles.ROWS, -(-rows.shape[1] // 4) * 4
    padded = np.zeros((height, width), np.int8)
    padded[: len(rows), : rows.shape[1]] = rows
    return Panels(padded, -128 * padded.sum(axis=1, dtype=np.int32))


def panels_of_train(rows: np.ndarray) -> np.ndarray:
    """int8 [t, d] as `tiles.multiply` takes training images."""
    width, steps = tiles.WIDTH, -(-rows.shape[1] // 4)
    padded = np.zeros((-(-len(rows) // width) * width, 4 * steps), np.uint8)
    # 128 more in two's complement is the top bit flipped.
    padded[: len(rows), : rows.shape[1]] = rows.view(np.uint8) ^ np.uint8(128)
    words = padded.view(np.uint32).reshape(-1, width, steps)
    panels = empty((len(words), steps, 4 * width), np.uint8)
    panels.view(np.uint32)[...] = words.transpose(0, 2, 1)
    return panels


def select(epsilon: np.ndarray, slack: np.ndarray, k: int, width: int) -> tiles.Selection:
    """An empty selection for q queries.

    Args:
        epsilon: float64 [q], of the queries.
        slack: [n] of the scores' dtype, of the training images.
        k: at least 1.
        width: entries of a query, from k to n; with more of them a query may be lost (never where it is n).
    """
    rows, dtype = len(epsilon), slack.dtype
    least = -np.inf if dtype == np.float32 else np.iinfo(dtype).min
    lanes = -(-LANES_PER_NEIGHBOR * k // tiles.LANES) + 1
    selection = tiles.Selection(
        k=k,
        slack=slack,
        width=-rounded_down(-2 * epsilon, dtype),
        floor=np.full(rows, least, dtype),
        threshold=np.full(rows, least, dtype),
        lanes=empty((rows, lanes * tiles.LANES), dtype),
        columns=np.empty((rows, width + tiles.SPARE), np.int32),
        scores=np.empty((rows, width + tiles.SPARE), dtype),
        taken=np.zeros(rows, np.int64),
        lost=np.zeros(rows, bool),
    )
    selection.lanes[:] = least
    return selection
