"""Exact nearest rows, and exact counts at levels of similarity, of queries against one part of the training features."""

import functools
import time
from typing import Literal

import numpy as np
import torch

from side_ray.search import faiss_engine
from side_ray.search.blocked import Part, Scan
from side_ray.search.counting import LevelCounter
from side_ray.search.float32 import Float32Kernel, squared_norms, tensor
from side_ray.search.kernels import Kernel, fastest_kernel
from side_ray.search.neighbors import LONGEST, Counts, Engine, Levels, Metric, Neighbors

WIDTH = (16, 1024)
"""Candidates kept per query: so many times k, and so many more."""
SMALL = 2**24
"""Feature elements below which no probe is worth its time."""


class RowIndex:
    """A search over one part of the training features, in which every row is an image of its own.

    Neither the engine, the number of threads, the block sizes nor the order of the rows changes a result: candidates are
    found in low precision with a proven error bound, compared in float64, and ordered by (value, id). The results of several
    parts are merged by `merge` and `Counts.merge`.

    Args:
        features: float32 [n, d]; kept, not copied (the faiss engine holds its own copy).
        ids: int64 [n], distinct.
        metric: `l2`, or `ip` for unit vectors.
        engine: `auto` takes what a short probe on this machine finds faster.
        threads: for products and selection alike; by default those of torch. Set explicitly, as torch and FAISS each bring
            an OpenMP runtime of their own.
        kernel: of the torch engine, for tests and benchmarks: `float32`, or a name of `kernels.KERNELS`, which is taken
            where it fits the features; by default the fastest.

    Raises:
        ValueError: arrays of other shapes or types, values that are not finite, or vectors for `ip` longer than 1.
        UserError: the faiss engine without FAISS.
    """

    def __init__(
        self,
        features: np.ndarray,
        ids: np.ndarray,
        metric: Metric,
        *,
        engine: Engine = "auto",
        threads: int | None = None,
        kernel: str | None = None,
    ) -> None:
        features = _checked(features, metric)
        if ids.shape != (len(features),) or len(features) == 0:
            raise ValueError(
                f"an index needs at least one row and an id for each, not {ids.shape} for {features.shape}"
            )
        self.part = Part(features, ids.astype(np.int64), metric)
        self.threads = threads or torch.get_num_threads()
        self.kernel: Kernel = fastest_kernel(features, self.part.ids, metric, self.threads, kernel) or self.float32
        self.engine = engine if engine != "auto" else self._probe()
        """`faiss` or `torch`, whichever was taken."""
        self.faiss = faiss_engine.FaissIndex(self.part, self.float32) if self.engine == "faiss" else None

    @functools.cached_property
    def float32(self) -> Float32Kernel:
        """The kernel that fits all features."""
        return Float32Kernel(self.part.features, self.part.metric)

    def search(self, queries: np.ndarray, k: int, levels: Levels | None = None) -> tuple[Neighbors, Counts | None]:
        """The k nearest training images of each query and, for `ip`, the counts of all at `levels`, in one pass.

        Args:
            queries: float32 [Q, d].
            k: at least 1; capped at the size of the part.

        Returns:
            Neighbors [Q, min(k, n)], and the counts where levels are given.
        """
        queries = self._checked_queries(queries)
        if levels is not None and self.part.metric != "ip":
            raise ValueError("with l2 the levels are relative to the merged neighbours: search first, then count")
        if k < 1:
            raise ValueError("k must be at least 1")
        counter = None if levels is None else self._counter(queries, levels, None)
        k = min(k, len(self.part.features))
        if self.faiss is not None:
            self._set_threads()
            width = min(k + 32, len(self.part.features))
            neighbors, lost = self.faiss.nearest(queries, k, width)
            counts = None if counter is None else self.faiss.count(counter)
        else:
            kernel = self.kernel if self.kernel.fits(queries) else self.float32
            width = self._wider(k)
            neighbors, lost, counts = self._scan(kernel, queries, k, width, counter)
            # Float32 tells more candidates apart than a coarser kernel: it may do with as many.
            width = width if kernel is self.float32 else k
        while lost.size:
            width = self._wider(width)
            found, still, _ = self._scan(self.float32, queries[lost], k, width, None)
            neighbors.ids[lost], neighbors.values[lost] = found.ids, found.values
            lost = lost[still]
        return neighbors, Counts.merge([]) if levels is not None and counts is None else counts

    def count(self, queries: np.ndarray, levels: Levels, denominator: np.ndarray | None = None) -> Counts:
        """How many queries have each training image at each named level, without a search.

        Args:
            queries: float32 [Q, d].
            denominator: float64 [Q], for `l2`: value = distance / denominator, which comes from the neighbours merged over
                the whole training set.
        """
        queries = self._checked_queries(queries)
        if (denominator is None) != (self.part.metric == "ip"):
            raise ValueError("l2 counts need the denominator of each query, ip counts none")
        counter = self._counter(queries, levels, denominator)
        if counter is None:
            return Counts.merge([])
        if self.faiss is not None and denominator is None:
            self._set_threads()
            return self.faiss.count(counter)
        # FAISS has no range search with a radius per query. Scores with an error leave more to be settled in float64.
        kernel = self.kernel if self.kernel.settles and self.kernel.fits(queries) else self.float32
        counts = self._scan(kernel, queries, 0, 0, counter)[2]
        assert counts is not None
        return counts

    def _scan(
        self, kernel: Kernel, queries: np.ndarray, k: int, width: int, counter: LevelCounter | None
    ) -> tuple[Neighbors, np.ndarray, Counts | None]:
        return Scan(self.part, kernel, self.float32, queries, k, width, counter, self.threads).run()

    def _counter(self, queries: np.ndarray, levels: Levels, denominator: np.ndarray | None) -> LevelCounter | None:
        if levels.larger_is_closer != (self.part.metric == "ip"):
            raise ValueError("the levels are of a similarity with another direction")
        counter = LevelCounter(queries, self.part.features, self.part.ids, self.part.metric, levels, denominator)
        return counter if counter.named else None

    def _wider(self, width: int) -> int:
        return min(WIDTH[0] * width + WIDTH[1], len(self.part.features))

    def _set_threads(self) -> None:
        faiss_engine.set_threads(self.threads)
        torch.set_num_threads(self.threads)

    def _probe(self) -> Literal["faiss", "torch"]:
        if self.part.features.size < SMALL or not faiss_engine.available():
            return "torch"
        if not isinstance(self.kernel, Float32Kernel) and not faiss_engine.on_gpus():
            return "torch"  # faster than float32's product, which FAISS takes as well
        return _faster(self.part.metric, self.part.features.shape[1], self.kernel.name, self.threads)

    def _checked_queries(self, queries: np.ndarray) -> np.ndarray:
        queries = _checked(queries, self.part.metric)
        if queries.shape[1] != self.part.features.shape[1]:
            raise ValueError(
                f"queries have {queries.shape[1]} features, the training images {self.part.features.shape[1]}"
            )
        return queries


@functools.cache
def _faster(metric: Metric, dimension: int, kernel: str, threads: int) -> Literal["faiss", "torch"]:
    """The faster engine for such features, on few random ones."""
    rng = np.random.default_rng(0)
    rows = int(np.clip(2**21 // dimension, 512, 4096))
    data = rng.integers(0, 256, (rows + 256, dimension)).astype(np.float32)
    if metric == "ip":
        data = rng.standard_normal(data.shape, np.float32)
        data /= np.linalg.norm(data, axis=1, keepdims=True)
    seconds: dict[Engine, float] = {}
    engines: tuple[Engine, ...] = ("faiss", "torch")
    for engine in engines:
        index = RowIndex(data[256:], np.arange(rows), metric, engine=engine, threads=threads, kernel=kernel)
        index.search(data[:64], 50)
        # Processor seconds, since the machine may have other work; of a GPU they say nothing.
        clock = time.perf_counter if index.kernel.serial else time.process_time
        start = clock()
        index.search(data[:256], 50)
        seconds[engine] = clock() - start
    return "faiss" if seconds["faiss"] < seconds["torch"] else "torch"


def _checked(features: np.ndarray, metric: Metric) -> np.ndarray:
    if features.ndim != 2 or features.dtype != np.float32:
        raise ValueError(f"features must be float32 [N, d], not {features.dtype} {features.shape}")
    features = np.ascontiguousarray(features)
    # Several times faster than in float64, whose result decides where float32's is near a limit.
    longest = float(torch.linalg.vector_norm(tensor(features), dim=1).max()) if features.size else 0.0
    if not longest < (LONGEST - 1e-4 if metric == "ip" else 1e18):
        longest = squared_norms(features).max(initial=0.0) ** 0.5
    if not np.isfinite(longest):
        raise ValueError("features hold NaN or infinite values")
    if metric == "ip" and longest > LONGEST:
        raise ValueError("inner products are taken of unit vectors; normalize the features")
    return features
