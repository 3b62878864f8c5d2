"""The same search by FAISS: its flat indices find candidates, which are compared again in float64."""

from typing import Any

import numpy as np

from side_ray.errors import UserError
from side_ray.search.blocked import Part
from side_ray.search.counting import LevelCounter, Pairs
from side_ray.search.exact import Nearest, values_of_pairs
from side_ray.search.kernels import Float32Kernel
from side_ray.search.neighbors import Counts, Neighbors

ROWS = 4096
"""Training images added at a time."""
QUERIES = 1024
"""Queries of one range search: its result lists every pair."""


def available() -> bool:
    """Whether FAISS is installed."""
    try:
        _faiss()
    except UserError:
        return False
    return True


def on_gpus() -> bool:
    """Whether FAISS, which is installed, has GPUs."""
    return getattr(_faiss(), "get_num_gpus", lambda: 0)() > 0


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
            self.index.add(self._centred(part.features[start : start + ROWS]))
        self.top_index = faiss.index_cpu_to_all_gpus(self.index) if on_gpus() else self.index

    def _centred(self, rows: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(rows if self.kernel.center is None else rows - self.kernel.center)

    def nearest(self, queries: np.ndarray, k: int, width: int) -> tuple[Neighbors, np.ndarray]:
        """The k nearest, and the rows (int64) for which `width` candidates were too few; see `search_torch.scan`."""
        distances, columns = self.top_index.search(self._centred(queries), width)
        norms = self.kernel.query_norms(queries)[:, None]
        scores = distances.astype(np.float64) if self.part.metric == "ip" else norms - distances
        # FAISS subtracts from the sum of both squared norms, in float32.
        rounding = 0.0 if self.part.metric == "ip" else 2.0**-21 * norms[:, 0]
        epsilon = self.kernel.prepare_queries(queries).epsilon * 2 + rounding
        promising = scores >= scores[:, k - 1, None]
        reached = scores >= (scores[:, k - 1] - 2 * epsilon)[:, None]
        unsure = np.flatnonzero(reached[:, -1]) if width < len(self.part.features) else np.empty(0, np.int64)
        found = Neighbors(np.empty((len(queries), k), np.int64), np.empty((len(queries), k)))
        nearest = Nearest(found, self.part.metric)

        def compare(chosen: np.ndarray) -> None:
            rows, picked = np.nonzero(chosen)[0], columns[chosen]
            values = values_of_pairs(queries, self.part.features, rows, picked, self.part.metric)
            nearest.add(chosen.sum(axis=1), values, self.part.ids[picked])

        compare(promising)
        lowest = self.kernel.least_scores(nearest.farthest, queries)
        compare(reached & ~promising & (scores + epsilon[:, None] >= lowest[:, None]))
        nearest.finish()
        return found, unsure

    def count(self, counter: LevelCounter) -> Counts:
        """Counts of inner products by range search, which is strict and only on the CPU; the edges are settled exactly."""
        found = []
        for start in range(0, len(counter.queries), QUERIES):
            rows = slice(start, min(start + QUERIES, len(counter.queries)))
            levels = counter.block(self.kernel, rows, self.kernel.prepare_queries(counter.queries[rows]).epsilon * 2)
            radius = np.nextafter(levels.maybe[:, 0].min(), np.float32(-np.inf))
            limits, scores, columns = self.index.range_search(
                np.ascontiguousarray(counter.queries[rows]), float(radius)
            )
            which = np.repeat(np.arange(rows.stop - rows.start), np.diff(limits.astype(np.int64)))
            counts = levels.count_pairs(Pairs(which, columns, scores))
            assert counts is not None
            found.append(counts)
        return Counts.merge(found)
