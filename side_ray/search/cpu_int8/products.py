"""Products of int8 rows, exact in int32, by whatever does them fastest on this processor."""

import functools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from side_ray.search.cpu_int8 import tiles
from side_ray.search.kernels import full_precision
from side_ray.search.memory import empty

PROBED = 2**18
"""Values of the rows that a probe multiplies, about."""


class Int8Product(ABC):
    """A way to multiply int8 [q, d] by int8 [t, d]."""

    @abstractmethod
    def queries(self, rows: np.ndarray) -> Any:
        """int8 [q, d] as `multiply` takes them."""

    @abstractmethod
    def train(self, rows: np.ndarray) -> Any:
        """int8 [t, d] as `multiply` takes them."""

    @abstractmethod
    def multiply(self, queries: Any, train: Any, out: np.ndarray) -> None:
        """out[i, j] = ⟨queries[i], train[j]⟩, int32 [q, t]."""


class Panels(NamedTuple):
    """Queries for `tiles.multiply`."""

    rows: np.ndarray
    base: np.ndarray


class PanelProduct(Int8Product):
    """`tiles.multiply`, whose tiles can be looked at before they leave the processor's cache."""

    def queries(self, rows: np.ndarray) -> Panels:
        height, width = -(-len(rows) // tiles.ROWS) * tiles.ROWS, -(-rows.shape[1] // 4) * 4
        padded = np.zeros((height, width), np.int8)
        padded[: len(rows), : rows.shape[1]] = rows
        return Panels(padded, -128 * padded.sum(axis=1, dtype=np.int32))

    def train(self, rows: np.ndarray) -> np.ndarray:
        width, steps = tiles.WIDTH, -(-rows.shape[1] // 4)
        padded = np.zeros((-(-len(rows) // width) * width, 4 * steps), np.uint8)
        # 128 more in two's complement is the top bit flipped.
        padded[: len(rows), : rows.shape[1]] = rows.view(np.uint8) ^ np.uint8(128)
        words = padded.view(np.uint32).reshape(-1, width, steps)
        panels = empty((len(words), steps, 4 * width), np.uint8)
        panels.view(np.uint32)[...] = words.transpose(0, 2, 1)
        return panels

    def multiply(self, queries: Panels, train: np.ndarray, out: np.ndarray) -> None:
        tiles.multiply(queries.rows, queries.base, train, out.shape[1], out)


class TorchProduct(Int8Product):
    """Torch's, which is no public function of its, and wrong for rows of one value."""

    def queries(self, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(rows)

    def train(self, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(rows)

    def multiply(self, queries: torch.Tensor, train: torch.Tensor, out: np.ndarray) -> None:
        torch._int_mm(queries, train.T, out=torch.from_numpy(out))


class Fastest(NamedTuple):
    """What a probe found."""

    product: Int8Product
    speedup: float
    """Over torch's float32 product."""


@functools.cache
def fastest(dimension: int) -> Fastest | None:
    """The fastest way that is exact at the extremes of such rows, by a short measurement (once per process); None without one."""
    generator = np.random.default_rng(0)
    rows = max(64, PROBED // dimension)
    a, b = (generator.integers(-128, 128, (size, dimension), np.int8) for size in (67, rows))
    a[0], b[0], a[1], b[1] = -128, -128, 127, 127
    wanted = (a.astype(np.float64) @ b.astype(np.float64).T).astype(np.int32)
    single_a, single_b = torch.from_numpy(a).float(), torch.from_numpy(b).float()
    with full_precision():
        single = _seconds(lambda: torch.mm(single_a, single_b.T))
    found = []
    for product in (PanelProduct(), TorchProduct()) if tiles.MULTIPLIES else (TorchProduct(),):
        out = np.zeros_like(wanted)
        try:
            operands = product.queries(a), product.train(b)
            product.multiply(*operands, out)
        except (AttributeError, RuntimeError, NotImplementedError):
            continue
        if np.array_equal(out, wanted):
            seconds = _seconds(functools.partial(product.multiply, *operands, out))
            found.append(Fastest(product, single / seconds))
    return max(found, key=lambda each: each.speedup, default=None)


def _seconds(call: Callable[[], Any]) -> float:
    """Processor seconds of a call on one thread, the least of several: other load on the machine hardly shows in them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = []
        for _ in range(5):
            start = time.thread_time()
            call()
            times.append(time.thread_time() - start)
    finally:
        torch.set_num_threads(before)
    return min(times)
