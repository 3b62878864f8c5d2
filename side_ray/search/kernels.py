"""Score tiles of the blocked search: one matrix product per tile, with a proven bound of its error.

A score orders training images by closeness to a query, larger is closer: `ip` is the inner product itself, `l2` is
‖q‖² − ‖q − x‖² = 2 q·x − ‖x‖² on data centred by a vector that changes no distance. Every kernel states an ε of each query and
a slack of each training image such that

    |tile − true score| ≤ ε + slack,

from γ_m = m·u / (1 − m·u) (Higham 2002, Eq. 3.5: any order of summation, with or without FMA), so that whatever a tile
cannot tell apart is compared again in float64 and the result of a search does not depend on the kernel.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from side_ray.search.memory import Scratch
from side_ray.search.neighbors import Metric
from side_ray.search.topk import Candidates

ROUNDOFF = 2.0**-24  # float32
COMPARED = 3
"""Roundings of a score when a search compares it: its slack and the threshold's width, and that of a bound."""
CACHED = 2**18
"""Feature elements that are converted or checked at a time: temporaries stay in a processor's cache."""
KEPT_BYTES = 2**29
"""Converted training features that a kernel keeps between calls, at most."""


class Kernel(ABC):
    """Scores of query blocks against blocks of the training features float32 [n, d]."""

    name: str
    exact = False
    """Scores are exact integers: no error, and the value follows from the score."""
    coarse = False
    """Errors are so wide that levels where many images lie are better counted by another kernel."""
    slack: np.ndarray
    """[n] in the dtype of scores, the part of the error that depends on the training image."""
    bytes_per_value = 4
    block = (512, 4096)
    """Queries and training images of a tile."""

    def __init__(self, features: np.ndarray, metric: Metric, threads: int = 1) -> None:
        self.features, self.metric = features, metric
        self.slack = np.zeros(len(features), np.float32)
        self.kept: dict[int, Any] | None = {} if features.size * self.bytes_per_value <= KEPT_BYTES else None

    def train(self, start: int) -> Any:
        """The block of training rows that begins at `start`, in the form that `scores` multiplies."""
        if self.kept is not None and start in self.kept:
            return self.kept[start]
        prepared = self.prepare_train(start, min(start + self.block[1], len(self.features)))
        if self.kept is not None:
            self.kept[start] = prepared
        return prepared

    @abstractmethod
    def prepare_queries(self, queries: np.ndarray) -> "Queries":
        """float32 [Q, d] in the form that `scores` multiplies."""

    @abstractmethod
    def prepare_train(self, start: int, stop: int) -> Any:
        """Training rows start … stop in the form that `scores` multiplies."""

    @abstractmethod
    def scores(self, queries: "Queries", train: Any, scratch: Scratch) -> np.ndarray:
        """Tile [q, t] of prepared blocks, in scratch memory."""

    def take(self, queries: "Queries", train: Any, scratch: Scratch, top: Candidates, column: int) -> np.ndarray | None:
        """`top.take` of the tile of prepared blocks, which need not be made as a whole for it."""
        return top.take(self.scores(queries, train, scratch), column)

    def query_norms(self, queries: np.ndarray) -> np.ndarray:
        """float64 [Q], ‖q‖² of the centred queries, with which l2 distances become scores."""
        return squared_norms(queries)

    def widest(self, epsilon: np.ndarray) -> np.ndarray:
        """Of ε [Q], the largest error of a score, whatever the training image; float64 [Q]."""
        return epsilon + float(self.slack.max(initial=0.0))

    def least_scores(self, values: np.ndarray, queries: np.ndarray) -> np.ndarray:
        """What the true scores of values at least as near as `values` float64 [Q] cannot fall short of; float64 [Q]."""
        if self.metric == "ip":
            return values
        norms, squares = self.query_norms(queries), values**2
        # Roundings of float64.
        return norms - squares - 2.0**-48 * (norms + squares)

    def sift(
        self, queries: np.ndarray, count: np.ndarray, columns: np.ndarray, lowest: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of candidates, those that can still have a true score of `lowest`, where a kernel can tell better than by its tiles.

        Args:
            queries: float32 [Q, d].
            count: int64 [Q], how many candidates each query has.
            columns: integers [m], their training rows, query after query.
            lowest: float64 [Q].

        Returns:
            `count` and `columns` of those that are left.
        """
        return count, columns


class Queries(NamedTuple):
    """Prepared queries."""

    rows: Any
    """What a kernel multiplies."""
    epsilon: np.ndarray
    """ε of the error bound, float64 [Q]."""


class Float32Kernel(Kernel):
    """The plain float32 product, for either metric and any features."""

    name = "float32"

    def __init__(self, features: np.ndarray, metric: Metric, threads: int = 1) -> None:
        super().__init__(features, metric, threads)
        self.kept = self.kept if metric == "l2" else None  # nothing to convert
        # Centring shrinks the norms, and with them ε; whole numbers keep pixel values exact.
        self.center = np.rint(_mean(features)).astype(np.float32) if metric == "l2" else None
        self.largest = (
            max((float(squared_norms(self._centred(*block)).max()) for block in _blocks(features)), default=0.0) ** 0.5
        )

    def _centred(self, start: int, stop: int) -> np.ndarray:
        rows = self.features[start:stop]
        return rows if self.center is None else rows - self.center

    def prepare_queries(self, queries: np.ndarray) -> Queries:
        rows = _tensor(queries if self.center is None else 2 * (queries - self.center))
        return Queries(rows, self._epsilon(queries))

    def prepare_train(self, start: int, stop: int) -> tuple[torch.Tensor, np.ndarray | None]:
        rows = self._centred(start, stop)
        norms = None if self.center is None else squared_norms(rows).astype(np.float32)
        return _tensor(rows), norms

    def scores(self, queries: "Queries", train: Any, scratch: Scratch) -> np.ndarray:
        rows, norms = train
        tile = scratch.get("tile", len(queries.rows), len(rows), np.float32)
        torch.mm(queries.rows, rows.T, out=torch.from_numpy(tile))
        return tile if norms is None else np.subtract(tile, norms, out=tile)

    def _epsilon(self, queries: np.ndarray) -> np.ndarray:
        norms = np.sqrt(self.query_norms(queries))
        if self.center is None:
            return gamma(queries.shape[1] + COMPARED) * norms * self.largest
        # Eight more roundings: centring both sides, the norms, the subtraction; the query's own norm turns scores to distances.
        return (
            gamma(queries.shape[1] + 8 + COMPARED) * (2 * norms * self.largest + self.largest**2) + gamma(8) * norms**2
        )

    def query_norms(self, queries: np.ndarray) -> np.ndarray:
        return squared_norms(queries if self.center is None else queries - self.center)


def squared_norms(rows: np.ndarray) -> np.ndarray:
    """float64 [N] of float32 [N, d], accumulated in float64."""
    norms = np.empty(len(rows))
    for start, stop in _blocks(rows):
        block = rows[start:stop].astype(np.float64)
        norms[start:stop] = np.einsum("ij,ij->i", block, block)
    return norms


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 products in float32 throughout: no TF32, no bfloat16 passes, whatever the process has set."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _tensor(rows: np.ndarray) -> torch.Tensor:
    # Torch warns of read-only memory, such as that of Ray's object store.
    return torch.from_numpy(rows if rows.flags.writeable else rows.copy())


def gamma(m: int) -> float:
    """γ_m of float32."""
    return m * ROUNDOFF / (1 - m * ROUNDOFF)


def _blocks(features: np.ndarray) -> list[tuple[int, int]]:
    step = max(1, CACHED // max(features.shape[1], 1))
    return [(start, min(start + step, len(features))) for start in range(0, len(features), step)]


def _mean(features: np.ndarray) -> np.ndarray:
    total = np.zeros(features.shape[1])
    for start, stop in _blocks(features):
        total += features[start:stop].sum(axis=0, dtype=np.float64)
    return total / max(len(features), 1)
