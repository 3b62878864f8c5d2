"""Score tiles of the blocked search: one matrix product per tile, with a proven bound of its error.

A score orders training images by closeness to a query, larger is closer: `ip` is the inner product itself, `l2` is
‖q‖² − ‖q − x‖² = 2 q·x − ‖x‖² on data centred by a vector that changes no distance. Every kernel states ε and r such that

    |tile − true score| ≤ ε + r · |tile|,

from γ_m = m·u / (1 − m·u) (Higham 2002, Eq. 3.5: any order of summation, with or without FMA), so that whatever a tile
cannot tell apart is compared again in float64 and the result of a search does not depend on the kernel.
"""

import functools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from side_ray.memorization.neighbors import Metric

ROUNDOFF = 2.0**-24  # float32
CACHED = 2**18
"""Feature elements that are converted or checked at a time: temporaries stay in a processor's cache."""
MANY = 10_000
"""Training images from which on a faster product outweighs the wider margin of its candidates."""
KEPT_BYTES = 2**29
"""Converted training features that a kernel keeps between calls, at most."""


class Kernel(ABC):
    """Scores of query blocks against blocks of the training features float32 [n, d]."""

    name: str
    dtype: type[np.generic] = np.float32
    """Of scores; a tile may hold them as int16, the bits of bfloat16."""
    exact = False
    """Scores are exact integers: no error, and the value follows from the score."""
    relative = 0.0
    """r of the error bound."""
    bytes_per_value = 4
    block = (512, 4096)
    """Queries and training images of a tile."""

    def __init__(self, features: np.ndarray, metric: Metric) -> None:
        self.features, self.metric = features, metric
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
    def prepare_queries(self, queries: np.ndarray) -> torch.Tensor:
        """float32 [Q, d] in the form that `scores` multiplies; Q rows."""

    @abstractmethod
    def prepare_train(self, start: int, stop: int) -> Any:
        """Training rows start … stop in the form that `scores` multiplies."""

    @abstractmethod
    def scores(self, queries: torch.Tensor, train: Any, scratch: "Scratch", positive: bool) -> np.ndarray:
        """Tile [q, t] of prepared blocks, in scratch memory; with `positive` only scores above 0 need be right."""

    @abstractmethod
    def epsilon(self, queries: np.ndarray) -> np.ndarray:
        """ε of the error bound, float64 [Q]."""

    def query_norms(self, queries: np.ndarray) -> np.ndarray:
        """float64 [Q], ‖q‖² of the centred queries, with which l2 distances become scores."""
        return squared_norms(queries)

    def prune_width(self, kth: np.ndarray, epsilon: np.ndarray) -> np.ndarray:
        """δ [Q] such that no tile score below kth − δ can belong to the k nearest, kth being the k-th best tile score.

        The k-th best true score is at least kth − ε − r|kth|; a score s below kth − δ has a true one of at most
        s + ε + r|s|, which is smaller for this δ.
        """
        if not self.relative:
            return 2 * epsilon
        return (2 * epsilon + 2 * self.relative * np.abs(kth)) / (1 - self.relative)

    def closest_values(self, scores: np.ndarray, queries: np.ndarray, epsilon: np.ndarray) -> np.ndarray:
        """The closest value that a tile score can stand for, float64 [Q, c]; scores may be -inf."""
        scores = np.maximum(scores, np.finfo(np.float32).min)
        highest = scores + epsilon[:, None] + self.relative * np.abs(scores)
        if self.metric == "ip":
            return highest
        return np.sqrt(np.maximum(self.query_norms(queries)[:, None] - highest, 0.0))


class Scratch(threading.local):
    """A thread's own tiles: fresh memory would cost a page fault per 4 KiB and tile."""

    def __init__(self) -> None:
        self.held: dict[Any, torch.Tensor] = {}

    def get(self, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
        """Memory [rows, columns], whose content is that of the last use."""
        if dtype not in self.held or self.held[dtype].numel() < rows * columns:
            self.held[dtype] = torch.empty(rows * columns, dtype=dtype)
        return self.held[dtype][: rows * columns].view(rows, columns)


class Float32Kernel(Kernel):
    """The plain float32 product, for either metric and any features."""

    name = "float32"

    def __init__(self, features: np.ndarray, metric: Metric) -> None:
        super().__init__(features, metric)
        self.kept = self.kept if metric == "l2" else None  # nothing to convert
        # Centring shrinks the norms, and with them ε; whole numbers keep pixel values exact.
        self.center = np.rint(_mean(features)).astype(np.float32) if metric == "l2" else None
        self.largest = (
            max((float(squared_norms(self._centred(*block)).max()) for block in _blocks(features)), default=0.0) ** 0.5
        )

    def _centred(self, start: int, stop: int) -> np.ndarray:
        rows = self.features[start:stop]
        return rows if self.center is None else rows - self.center

    def prepare_queries(self, queries: np.ndarray) -> torch.Tensor:
        return _tensor(queries if self.center is None else 2 * (queries - self.center))

    def prepare_train(self, start: int, stop: int) -> tuple[torch.Tensor, np.ndarray | None]:
        rows = self._centred(start, stop)
        norms = None if self.center is None else squared_norms(rows).astype(np.float32)
        return _tensor(rows), norms

    def scores(self, queries: torch.Tensor, train: Any, scratch: Scratch, positive: bool) -> np.ndarray:
        rows, norms = train
        tile = torch.mm(queries, rows.T, out=scratch.get(len(queries), len(rows), torch.float32)).numpy()
        return tile if norms is None else np.subtract(tile, norms, out=tile)

    def epsilon(self, queries: np.ndarray) -> np.ndarray:
        norms = np.sqrt(self.query_norms(queries))
        if self.center is None:
            return _gamma(queries.shape[1]) * norms * self.largest
        # Eight more roundings: centring both sides, the norms, the subtraction; the query's own norm turns scores to distances.
        return _gamma(queries.shape[1] + 8) * (2 * norms * self.largest + self.largest**2) + _gamma(8) * norms**2

    def query_norms(self, queries: np.ndarray) -> np.ndarray:
        return squared_norms(queries if self.center is None else queries - self.center)


class Int8Kernel(Kernel):
    """Pixel values 0 … 255, shifted by 128, multiplied in int8 with int32 accumulation: exact, and several times faster."""

    name = "int8"
    dtype = np.int32
    exact = True
    bytes_per_value = 1
    block = (1024, 2048)

    def prepare_queries(self, queries: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(_shifted(queries))

    def prepare_train(self, start: int, stop: int) -> tuple[torch.Tensor, np.ndarray]:
        rows = self.features[start:stop]
        return torch.from_numpy(_shifted(rows)), self._norms(rows).astype(np.int32)

    def scores(self, queries: torch.Tensor, train: Any, scratch: Scratch, positive: bool) -> np.ndarray:
        rows, norms = train
        tile = torch._int_mm(queries, rows.T, out=scratch.get(len(queries), len(rows), torch.int32)).numpy()
        np.left_shift(tile, 1, out=tile)
        return np.subtract(tile, norms, out=tile)

    def epsilon(self, queries: np.ndarray) -> np.ndarray:
        return np.zeros(len(queries))

    def query_norms(self, queries: np.ndarray) -> np.ndarray:
        return self._norms(queries)

    @staticmethod
    def _norms(pixels: np.ndarray) -> np.ndarray:
        norms = np.zeros(len(pixels))
        for start, stop in _blocks(pixels):
            block = pixels[start:stop] - np.float32(128)
            # Sums of 1,024 squares up to 128² are exact in float32.
            for piece in range(0, block.shape[1], 1024):
                norms[start:stop] += np.einsum(
                    "ij,ij->i", block[:, piece : piece + 1024], block[:, piece : piece + 1024]
                )
        return norms

    @staticmethod
    def fits(features: np.ndarray) -> bool:
        """Whether all values are whole numbers 0 … 255, and no score can overflow int32."""
        if 3 * features.shape[1] * 128**2 >= 2**31:
            return False
        return all(_are_pixels(features[start:stop]) for start, stop in _blocks(features))


class Bfloat16Kernel(Kernel):
    """Inner products of features rounded to bfloat16, for processors that multiply those many times faster."""

    name = "bfloat16"
    relative = 2.0**-8
    bytes_per_value = 2
    block = (1024, 4096)

    def __init__(self, features: np.ndarray, metric: Metric) -> None:
        super().__init__(features, metric)
        self.largest = self.residual = 0.0
        for start, stop in _blocks(features):
            kept, lost = _bfloat16_norms(features[start:stop])
            self.largest, self.residual = max(self.largest, float(kept.max())), max(self.residual, float(lost.max()))

    def prepare_queries(self, queries: np.ndarray) -> torch.Tensor:
        return _tensor(queries).bfloat16()

    def prepare_train(self, start: int, stop: int) -> torch.Tensor:
        return _tensor(self.features[start:stop]).bfloat16()

    def scores(self, queries: torch.Tensor, train: Any, scratch: Scratch, positive: bool) -> np.ndarray:
        tile = torch.mm(queries, train.T, out=scratch.get(len(queries), len(train), torch.bfloat16))
        if positive:
            return tile.view(torch.int16).numpy()
        return scratch.get(len(queries), len(train), torch.float32).copy_(tile).numpy()

    def epsilon(self, queries: np.ndarray) -> np.ndarray:
        kept, lost = _bfloat16_norms(queries)
        whole = np.sqrt(squared_norms(queries))
        # The tiny term: bfloat16 units flush denormal products to zero.
        return lost * self.largest + whole * self.residual + _gamma(queries.shape[1]) * kept * self.largest + 2.0**-100


def squared_norms(rows: np.ndarray) -> np.ndarray:
    """float64 [N] of float32 [N, d], accumulated in float64."""
    norms = np.empty(len(rows))
    for start, stop in _blocks(rows):
        block = rows[start:stop].astype(np.float64)
        norms[start:stop] = np.einsum("ij,ij->i", block, block)
    return norms


def choose_kernel(features: np.ndarray, metric: Metric) -> str:
    """The fastest kernel on this machine that fits the features, by a short measurement (once per process)."""
    if metric == "ip":
        return "bfloat16" if len(features) >= MANY and _bfloat16_pays() else "float32"
    return "int8" if Int8Kernel.fits(features) and _int8_pays(features.shape[1]) else "float32"


KERNELS: dict[str, type[Kernel]] = {kernel.name: kernel for kernel in (Float32Kernel, Int8Kernel, Bfloat16Kernel)}


@functools.cache
def _int8_pays(dimension: int) -> bool:
    """Whether the int8 product of such rows is exact at its extremes, and faster than float32's.

    It is no public function of torch's, older processors saturate, and rows of a single value come out wrong.
    """
    generator = torch.Generator().manual_seed(0)
    rows = max(64, CACHED // dimension)
    a, b = (torch.randint(-128, 128, (size, dimension), dtype=torch.int8, generator=generator) for size in (67, rows))
    a[0], b[0], a[1], b[1] = -128, -128, 127, 127
    with full_precision():
        try:
            exact = torch.equal(torch._int_mm(a, b.T), (a.double() @ b.double().T).to(torch.int32))
        except (AttributeError, RuntimeError, NotImplementedError):
            return False
        single_a, single_b = a.float(), b.float()
        return exact and _seconds(lambda: torch._int_mm(a, b.T)) < _seconds(lambda: torch.mm(single_a, single_b.T))


@functools.cache
def _bfloat16_pays() -> bool:
    """Whether bfloat16 is at least twice as fast: below that, the wider margin eats the gain."""
    a, b = torch.ones(512, 512), torch.ones(2048, 512)
    low_a, low_b = a.bfloat16(), b.bfloat16()
    with full_precision():
        return 2 * _seconds(lambda: torch.mm(low_a, low_b.T)) < _seconds(lambda: torch.mm(a, b.T))


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 products in float32 throughout: no TF32, no bfloat16 passes, whatever the process has set."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


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


def _tensor(rows: np.ndarray) -> torch.Tensor:
    # Torch warns of read-only memory, such as that of Ray's object store.
    return torch.from_numpy(rows if rows.flags.writeable else rows.copy())


def _gamma(m: int) -> float:
    return m * ROUNDOFF / (1 - m * ROUNDOFF)


def _blocks(features: np.ndarray) -> list[tuple[int, int]]:
    step = max(1, CACHED // max(features.shape[1], 1))
    return [(start, min(start + step, len(features))) for start in range(0, len(features), step)]


def _mean(features: np.ndarray) -> np.ndarray:
    total = np.zeros(features.shape[1])
    for start, stop in _blocks(features):
        total += features[start:stop].sum(axis=0, dtype=np.float64)
    return total / max(len(features), 1)


def _shifted(pixels: np.ndarray) -> np.ndarray:
    shifted = np.empty(pixels.shape, np.int8)
    for start, stop in _blocks(pixels):
        # 128 less in two's complement is the top bit flipped.
        np.bitwise_xor(pixels[start:stop].astype(np.uint8), np.uint8(128), out=shifted[start:stop].view(np.uint8))
    return shifted


def _are_pixels(rows: np.ndarray) -> bool:
    with np.errstate(invalid="ignore"):
        return bool((rows.astype(np.uint8).astype(np.float32) == rows).all())


def _bfloat16_norms(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 [N]: norms of the rows rounded to bfloat16, and of what the rounding loses."""
    original = _tensor(rows)
    rounded = original.bfloat16().float()
    return np.sqrt(squared_norms(rounded.numpy())), np.sqrt(squared_norms((original - rounded).numpy()))
