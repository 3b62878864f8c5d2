"""What a search counts at and what it returns, and how the results of the parts of a training set are merged."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Edge = float | None
Metric = Literal["l2", "ip"]
"""`l2`: Euclidean distance, smaller is closer. `ip`: inner product of unit vectors (cosine), larger is closer."""
Engine = Literal["auto", "faiss", "torch"]
"""What finds the candidates; `auto` takes what a short probe on this machine finds faster."""
LONGEST = 1.0005
"""The largest norm that is accepted as that of a unit vector."""


@dataclass(frozen=True)
class Levels:
    """Consecutive intervals of closeness; level i holds `edges[i] <= closeness < edges[i + 1]`, the last one is open."""

    edges: np.ndarray
    """float32 [m], ascending."""
    labels: tuple[tuple[str, ...], ...]
    """For each level, the names of the bands that it belongs to: none, one, or two with the calibrated cut."""
    larger_is_closer: bool

    def assign(self, values: np.ndarray) -> np.ndarray:
        """Level of each value (any shape, rounded to float32); -1 for what is farther than every level, and for NaN."""
        closeness = closeness_of(values, self.larger_is_closer)
        level = np.searchsorted(self.edges, closeness, side="right").astype(np.int64) - 1
        return np.where(np.isnan(closeness), -1, level)

    def reaches_beyond(self, value: float) -> bool:
        """Whether a value farther than `value`, or equal to it, can lie in a level that has a name."""
        named = [edge for edge, names in zip(self.edges, self.labels, strict=True) if names]
        return bool(named) and bool(min(named) <= closeness_of(np.float32(value), self.larger_is_closer))

    def named(self, name: str) -> np.ndarray:
        """bool [m]: which levels belong to the band `name`."""
        return np.array([name in names for names in self.labels], bool)


def closeness_of(values: np.ndarray | np.floating, larger_is_closer: bool) -> np.ndarray:
    """float32 values, negated where smaller is closer, so that larger always means closer."""
    rounded = np.asarray(values, np.float32)
    return rounded if larger_is_closer else -rounded


@dataclass(frozen=True)
class Neighbors:
    """The k nearest training images of each query, ordered by (value, id): equal values by the smaller id."""

    ids: np.ndarray
    """int64 [Q, k]; fewer columns where fewer training images were searched."""
    values: np.ndarray
    """float64 [Q, k], distances (`l2`) or cosines clipped to [-1, 1] (`ip`), nearest first."""


@dataclass(frozen=True)
class Counts:
    """How many queries have each training image at each level, sparse: one entry for each (level, train_id) that occurs."""

    levels: np.ndarray
    """int64 [m]."""
    train_ids: np.ndarray
    """int64 [m]."""
    counts: np.ndarray
    """int64 [m], ≥ 1."""
    first: np.ndarray
    """int64 [m], row of the first query that has the training image at that level."""

    @classmethod
    def of_pairs(
        cls, levels: np.ndarray, train_ids: np.ndarray, rows: np.ndarray, counts: np.ndarray | None = None
    ) -> "Counts":
        """Count (level, train id, query row) entries, each standing for one query or for `counts` of them."""
        order = np.lexsort((rows, train_ids, levels))
        levels, train_ids = levels[order].astype(np.int64), train_ids[order].astype(np.int64)
        if not levels.size:
            return cls(levels, train_ids, levels.copy(), levels.copy())
        starts = np.flatnonzero(np.r_[True, (levels[1:] != levels[:-1]) | (train_ids[1:] != train_ids[:-1])])
        weights = np.ones(levels.size, np.int64) if counts is None else counts[order].astype(np.int64)
        return cls(
            levels[starts], train_ids[starts], np.add.reduceat(weights, starts), rows[order][starts].astype(np.int64)
        )

    @classmethod
    def merge(cls, parts: Sequence["Counts"]) -> "Counts":
        """The counts of the same queries in several parts of a training set, or of several blocks of queries."""
        if not parts:
            return cls(*[np.empty(0, np.int64)] * 4)
        names = ("levels", "train_ids", "first", "counts")
        return cls.of_pairs(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def nearest_first(values: np.ndarray, ids: np.ndarray, metric: Metric) -> np.ndarray:
    """Order of each row of [Q, m] by (value, id), nearest first; int64 [Q, m] column numbers."""
    keys = values if metric == "l2" else -values
    order = np.argsort(keys, axis=1)
    ordered = np.take_along_axis(keys, order, 1)
    # Sorting by value alone is vectorised; the slower sort by both is needed where finite values are equal.
    tied = np.flatnonzero(((ordered[:, 1:] == ordered[:, :-1]) & np.isfinite(ordered[:, 1:])).any(axis=1))
    order[tied] = np.lexsort((ids[tied], keys[tied]), axis=-1)
    return order


def merge(parts: Sequence[Neighbors], k: int, metric: Metric) -> Neighbors:
    """Exact top-k of a training set from the top-k of its parts, whose ids are disjoint.

    Every part must have been searched for at least min(k, its size) neighbours. The order of the parts does not matter.
    """
    ids = np.concatenate([part.ids for part in parts], axis=1)
    values = np.concatenate([part.values for part in parts], axis=1)
    order = nearest_first(values, ids, metric)[:, :k]
    return Neighbors(np.take_along_axis(ids, order, 1), np.take_along_axis(values, order, 1))


def normalize(distances: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """float32 distance / denominator; an exact copy is 0 even where all nearest are copies and the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(distances == 0, 0.0, distances / denominator).astype(np.float32)


def distances(values: np.ndarray, metric: Metric) -> np.ndarray:
    """float64 Euclidean distances, of the shape of `values`: these (`l2`), or √(2 − 2·cosine) between unit vectors (`ip`)."""
    wide = values.astype(np.float64)
    return wide if metric == "l2" else np.sqrt(np.maximum(2 - 2 * wide, 0))
