"""The same search by FAISS: its flat indices find candidates, which are compared again in float64."""

from typing import Any

import numpy as np

from side_ray.errors import UserError
from side_ray.search.blocked import Part
from side_ray.search.candidates import Pairs
from side_ray.search.counting import LevelCounter
from side_ray.search.exact import values_of_pairs, write_nearest
from side_ray.search.float32 import Float32Kernel
from side_ray.search.neighbors import Counts, Neighbors

ROWS = 4096
"""Training images added at a time."""
QUERIES = 1024
"""Queries of one range search, whose result lists every pair."""


def available() -> bool:
    """Whether FAISS is installed."""
    try:
        _faiss()
    except UserError:
        return False
    return True


def on_gpus() -> bool:
    """Whether the installed FAISS sees GPUs."""
    return getattr(_faiss(), "get_num_gpus", lambda: 0)() > 0


def set_threads(threads: int) -> None:
    """Set the number of threads of FAISS's own OpenMP runtime."""
    _faiss().omp_set_num_threads(threads)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise UserError(
            "score.engine: faiss is not installed; install side-ray[cpu] or side-ray[gpu], or use torch"
        ) from None
    return faiss


class FaissIndex:
    """A flat index of a part (on all GPUs where FAISS has some), beside the part itself."""

    def __init__(self, part: Part, kernel: Float32Kernel) -> None:
        faiss = _faiss()
        self.part, self.kernel = part, kernel
        dimension = part.features.shape[1]
        # Centred like the kernel's tiles: FAISS expands squares as well, and the error bound grows with the norms.
        self.index = faiss.IndexFlatIP(dimension) if part.metric == "ip" else faiss.IndexFlatL2(dimension)
        for start in range(0, len(part.features), ROWS):
            self.index.add(np.ascontiguousarray(kernel.centred(part.features[start : start + ROWS])))
        self.top_index = faiss.index_cpu_to_all_gpus(self.index) if on_gpus() else self.index

    def nearest(self, queries: np.ndarray, k: int, width: int) -> tuple[Neighbors, np.ndarray]:
        """The k nearest, and the rows (int64) that have more than `width` candidates, whose neighbours are not valid."""
        distances, columns = self.top_index.search(np.ascontiguousarray(self.kernel.centred(queries)), width)
        norms = self.kernel.query_norms(queries)[:, None]
        scores = distances.astype(np.float64) if self.part.metric == "ip" else norms - distances
        # FAISS subtracts from the sum of both squared norms, in float32.
        rounding = 0.0 if self.part.metric == "ip" else 2.0**-21 * norms[:, 0]
        error = self.kernel.prepare(queries).error * 2 + rounding
        reached = scores >= (scores[:, k - 1] - 2 * error)[:, None]
        lost = np.flatnonzero(reached[:, -1]) if width < len(self.part.features) else np.empty(0, np.int64)
        rows, picked = np.nonzero(reached)[0], columns[reached]
        values = values_of_pairs(queries, self.part.features, rows, picked, self.part.metric)
        found = Neighbors(np.empty((len(queries), k), np.int64), np.empty((len(queries), k)))
        write_nearest(found, rows, values, self.part.ids[picked], self.part.metric)
        return found, lost

    def count(self, counter: LevelCounter) -> Counts:
        """Counts of inner products by range search, which is strict and only on the CPU; the edges are settled exactly."""
        found = []
        for start in range(0, len(counter.queries), QUERIES):
            queries = counter.queries[start : start + QUERIES]
            error = self.kernel.prepare(queries).error * 2
            rows = np.arange(start, start + len(queries))
            levels = counter.block(rows, None, error, np.dtype(np.float32))
            radius = np.nextafter(levels.lowest.min(), np.float32(-np.inf))
            limits, scores, columns = self.index.range_search(np.ascontiguousarray(queries), float(radius))
            which = np.repeat(np.arange(rows.size), np.diff(limits.astype(np.int64)))
            found.append(levels.count_pairs(Pairs(which, columns, scores)))
        return Counts.merge(found)
