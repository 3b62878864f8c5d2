"""Kernels: how the candidates of a search are found.

A kernel gives each pair of a query and a training image a score, larger is closer: `ip` is the inner product itself, `l2` is
‖q‖² − ‖q − x‖² = 2 q·x − ‖x‖² on data centred by a vector that changes no distance. It states by how much a score may be
wrong, so that whatever scores cannot tell apart is compared again in float64, and the result of a search does not depend on
the kernel.

`KERNELS` lists the kernels that are faster than the float32 product on some machines. Each line names a function
`make(features, ids, metric, threads, wanted) -> Kernel | None`, which returns None where the kernel does not fit the features, or
is not faster on this machine (unless it is `wanted`). A line can be deleted together with its package.
"""

from abc import ABC, abstractmethod
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from side_ray.search.candidates import Candidates
from side_ray.search.counting import BlockLevels, LevelCounter
from side_ray.search.neighbors import Counts, Metric, Neighbors

KERNELS = {
    "device": "side_ray.search.device:make",
    "cpu_int8": "side_ray.search.cpu_int8:make",
}


class Found(NamedTuple):
    """What a kernel finds for a block of q queries."""

    rows: np.ndarray
    """int [m], the query in the block of each candidate pair; the k nearest of each query are among its pairs."""
    columns: np.ndarray
    """int [m], the training row of each pair."""
    values: np.ndarray | None
    """float64 [m], the values of the pairs as `exact.values_of_pairs` gives them, where the kernel has them."""
    lost: np.ndarray
    """bool [q], queries with too many candidates, whose pairs are not complete."""
    counts: Counts | None
    """Counts at levels, but for the `uncounted` queries."""
    uncounted: np.ndarray
    """bool [q]."""
    nearest: Neighbors | None = None
    """The k nearest [q, k] with their values, in place of pairs, where the kernel orders them itself."""


class Prepared(NamedTuple):
    """Queries as a kernel multiplies them."""

    rows: Any
    error: np.ndarray
    """float64 [q], how far a score of the query may be from the true one, whatever the training image."""


class Kernel(ABC):
    """Finds candidates, or the nearest, for blocks of queries among training features float32 [n, d]."""

    name: str
    settles = False
    """Counting with it is faster than with float32, also where many pairs must be settled by their float64 values."""
    serial = False
    """One block of queries at a time keeps it busy."""
    block = (1024, 4096)
    """Queries and training images that are multiplied together, at most."""

    def __init__(self, features: np.ndarray, metric: Metric) -> None:
        self.features, self.metric = features, metric

    @abstractmethod
    def find(self, queries: np.ndarray, first: int, k: int, width: int, counter: LevelCounter | None) -> Found:
        """Find the candidates of a block of queries, and count at levels.

        Args:
            queries: float32 [q, d], rows `first` … of the counter's.
            k: neighbours wanted, at most n; 0 only counts.
            width: candidates kept per query, from k to n.
        """

    def fits(self, queries: np.ndarray) -> bool:
        """Whether the kernel's scores hold for such queries."""
        return True


class TileKernel(Kernel):
    """Finds candidates in tiles of scores."""

    dtype: np.dtype = np.dtype(np.float32)
    """Of scores: float32 or int32."""

    @abstractmethod
    def prepare(self, queries: np.ndarray) -> Prepared:
        """float32 [q, d] in the form that `scores` multiplies."""

    @abstractmethod
    def scores(self, queries: Prepared, start: int, stop: int, out: np.ndarray) -> None:
        """Write the scores of training rows start … stop into `out` [q, stop − start], contiguous, of `dtype`."""

    @abstractmethod
    def query_norms(self, queries: np.ndarray) -> np.ndarray:
        """float64 [q], ‖q‖² of the centred queries, with which l2 distances become scores."""

    def find(self, queries: np.ndarray, first: int, k: int, width: int, counter: LevelCounter | None) -> Found:
        rows = np.arange(first, first + len(queries))
        return self._find_in_tiles(queries, rows, k, width, counter)

    def count(self, rows: np.ndarray, counter: LevelCounter) -> Counts:
        """Counts at levels of some of the counter's queries, by their numbers int64 [q], ascending."""
        counts = self._find_in_tiles(counter.queries[rows], rows, 0, 0, counter).counts
        assert counts is not None
        return counts

    def _find_in_tiles(
        self, queries: np.ndarray, rows: np.ndarray, k: int, width: int, counter: LevelCounter | None
    ) -> Found:
        prepared = self.prepare(queries)
        top = Candidates(prepared.error, k, width) if k else None
        levels = None if counter is None else self.levels(counter, queries, rows, prepared)
        size = min(self.block[1], len(self.features)) * len(queries)
        memory, flags, counts = np.empty(size, self.dtype), np.empty(size, bool), []
        for start in range(0, len(self.features), self.block[1]):
            stop = min(start + self.block[1], len(self.features))
            shape, end = (len(queries), stop - start), len(queries) * (stop - start)
            tile, mask = memory[:end].reshape(shape), flags[:end].reshape(shape)
            self.scores(prepared, start, stop, tile)
            pairs = None if top is None else top.take(tile, start, mask)
            if levels is not None:
                # Thresholds only rise: where they are still below all levels, every pair at a level has been listed.
                listed = top is not None and pairs is not None and bool((top.threshold <= levels.lowest).all())
                counts.append(
                    levels.count_pairs(pairs) if listed and pairs is not None else levels.count(tile, start, mask)
                )
        counted = None if levels is None else Counts.merge(counts)
        nothing = np.zeros(len(queries), bool)
        if top is None:
            return Found(np.empty(0, np.int64), np.empty(0, np.int64), None, nothing, counted, nothing)
        pairs = top.result()
        return Found(pairs.rows, pairs.columns, None, top.lost, counted, nothing)

    def levels(self, counter: LevelCounter, queries: np.ndarray, rows: np.ndarray, prepared: Prepared) -> BlockLevels:
        """The edges of the counter's levels as bounds on this kernel's scores; see `LevelCounter.block`."""
        norms = self.query_norms(queries) if self.metric == "l2" else None
        return counter.block(rows, norms, prepared.error, self.dtype)


def fastest_kernel(
    features: np.ndarray, ids: np.ndarray, metric: Metric, threads: int, name: str | None = None
) -> Kernel | None:
    """The first kernel of `KERNELS` that fits and is worth it, or the one of that name; None where float32 is left."""
    for each, line in KERNELS.items():
        if name in (None, each):
            module, _, attribute = line.partition(":")
            kernel: Kernel | None = getattr(import_module(module), attribute)(
                features, ids, metric, threads, name == each
            )
            if kernel is not None:
                return kernel
    return None
