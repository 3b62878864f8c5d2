"""The plain float32 product, for either metric and any features."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from side_ray.search.kernels import Prepared, TileKernel
from side_ray.search.neighbors import Metric

ROUNDOFF = 2.0**-24
CACHED = 2**18
"""Feature elements that are converted or checked at a time: temporaries stay in a processor's cache."""


class Float32Kernel(TileKernel):
    """Scores by torch's product.

    The error bound is γ_m = m·u / (1 − m·u) (Higham 2002, Eq. 3.5: any order of summation, with or without FMA).
    """

    name = "float32"

    def __init__(self, features: np.ndarray, metric: Metric) -> None:
        super().__init__(features, metric)
        # Centring shrinks the norms, and with them the error; whole numbers keep pixel values exact.
        self.center = np.rint(_mean(features)).astype(np.float32) if metric == "l2" else None
        norms = np.concatenate([squared_norms(self.centred(features[rows])) for rows in blocks(features)])
        self.largest = float(norms.max()) ** 0.5
        self.norms = norms.astype(np.float32)

    def centred(self, rows: np.ndarray) -> np.ndarray:
        """float32 [N, d] as they are multiplied."""
        return rows if self.center is None else rows - self.center

    def prepare(self, queries: np.ndarray) -> Prepared:
        rows = queries if self.center is None else 2 * (queries - self.center)
        norms = self.query_norms(queries)
        lengths, d = np.sqrt(norms), queries.shape[1]
        if self.center is None:
            return Prepared(tensor(rows), gamma(d + 1) * lengths * self.largest)
        # Eight more roundings: centring both sides, the norms, the subtraction; the query's own norm turns scores to distances.
        error = gamma(d + 8) * (2 * lengths * self.largest + self.largest**2) + gamma(8) * norms
        return Prepared(tensor(rows), error)

    def scores(self, queries: Prepared, start: int, stop: int, out: np.ndarray) -> None:
        torch.mm(queries.rows, tensor(self.centred(self.features[start:stop])).T, out=torch.from_numpy(out))
        if self.center is not None:
            out -= self.norms[start:stop]

    def query_norms(self, queries: np.ndarray) -> np.ndarray:
        return squared_norms(self.centred(queries))


def squared_norms(rows: np.ndarray) -> np.ndarray:
    """float64 [N] of float32 [N, d], accumulated in float64."""
    norms = np.empty(len(rows))
    for part in blocks(rows):
        block = rows[part].astype(np.float64)
        norms[part] = np.einsum("ij,ij->i", block, block)
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


def tensor(rows: np.ndarray) -> torch.Tensor:
    """A tensor of the same memory, or a copy of memory that is read-only (Ray's object store), of which torch warns."""
    return torch.from_numpy(rows if rows.flags.writeable else rows.copy())


def gamma(m: int, roundoff: float = ROUNDOFF) -> float:
    """γ_m, by default of float32."""
    return m * roundoff / (1 - m * roundoff)


def blocks(features: np.ndarray) -> list[slice]:
    """Rows that are converted at a time."""
    step = max(1, CACHED // max(features.shape[1], 1))
    return [slice(start, min(start + step, len(features))) for start in range(0, len(features), step)]


def _mean(features: np.ndarray) -> np.ndarray:
    total = np.zeros(features.shape[1])
    for part in blocks(features):
        total += features[part].sum(axis=0, dtype=np.float64)
    return total / max(len(features), 1)
