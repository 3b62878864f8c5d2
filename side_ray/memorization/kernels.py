"""Score tiles of the blocked search: one matrix product per tile, with a proven bound of its error.

A score orders training images by closeness to a query, larger is closer: `ip` is the inner product itself, `l2` is
‖q‖² − ‖q − x‖² = 2 q·x − ‖x‖² on data centred by a vector that changes no distance. Every kernel states an ε of each query and
a slack of each training image such that

    |tile − true score| ≤ ε + slack,

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

from side_ray.memorization import compiled
from side_ray.memorization.neighbors import LONGEST, Metric

ROUNDOFF = 2.0**-24  # float32
COMPARED = 3
"""Roundings of a score when a search compares it: its slack and the threshold's width, and that of a bound."""
CACHED = 2**18
"""Feature elements that are converted or checked at a time: temporaries stay in a processor's cache."""
MANY = 2_000
"""Training images from which on a faster product outweighs the wider margin of its candidates."""
KEPT_BYTES = 2**29
"""Converted training features that a kernel keeps between calls, at most."""


class Kernel(ABC):
    """Scores of query blocks against blocks of the training features float32 [n, d]."""

    name: str
    exact = False
    """Scores are exact integers: no error, and the value follows from the score."""
    coarse = False
    """Errors are so wide that levels where many images lie are better counted by another kernel."""
    slack = np.empty(0, np.float32)
    """[n] in the dtype of scores, the part of the error that depends on the training image; [0] where it does not."""
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
    def prepare_queries(self, queries: np.ndarray) -> Any:
        """float32 [Q, d] in the form that `scores` multiplies."""

    @abstractmethod
    def prepare_train(self, start: int, stop: int) -> Any:
        """Training rows start … stop in the form that `scores` multiplies."""

    @abstractmethod
    def scores(self, queries: Any, train: Any, scratch: "Scratch") -> np.ndarray:
        """Tile [q, t] of prepared blocks, in scratch memory."""

    @abstractmethod
    def epsilon(self, queries: np.ndarray) -> np.ndarray:
        """ε of the error bound, float64 [Q]."""

    def query_norms(self, queries: np.ndarray) -> np.ndarray:
        """float64 [Q], ‖q‖² of the centred queries, with which l2 distances become scores."""
        return squared_norms(queries)

    def widest(self, epsilon: np.ndarray) -> np.ndarray:
        """Of ε [Q], the largest error of a score, whatever the training image; float64 [Q]."""
        return epsilon + float(self.slack.max(initial=0.0))

    def closest_values(self, highest: np.ndarray, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The closest values that true scores of at most `highest` float64 [m] of the queries `rows` int64 [m] can mean."""
        if self.metric == "ip":
            return highest
        return np.sqrt(np.maximum(self.query_norms(queries)[rows] - highest, 0.0))


class Scratch(threading.local):
    """A thread's own tiles: fresh memory would cost a page fault per 4 KiB and tile."""

    def __init__(self) -> None:
        self.held: dict[str, torch.Tensor] = {}

    def get(self, name: str, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
        """Memory [rows, columns], whose content is that of the last use of this name, which has one dtype."""
        if name not in self.held or self.held[name].numel() < rows * columns:
            self.held[name] = torch.empty(rows * columns, dtype=dtype)
        return self.held[name][: rows * columns].view(rows, columns)


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

    def scores(self, queries: Any, train: Any, scratch: Scratch) -> np.ndarray:
        rows, norms = train
        tile = torch.mm(queries, rows.T, out=scratch.get("tile", len(queries), len(rows), torch.float32)).numpy()
        return tile if norms is None else np.subtract(tile, norms, out=tile)

    def epsilon(self, queries: np.ndarray) -> np.ndarray:
        norms = np.sqrt(self.query_norms(queries))
        if self.center is None:
            return _gamma(queries.shape[1] + COMPARED) * norms * self.largest
        # Eight more roundings: centring both sides, the norms, the subtraction; the query's own norm turns scores to distances.
        return (
            _gamma(queries.shape[1] + 8 + COMPARED) * (2 * norms * self.largest + self.largest**2)
            + _gamma(8) * norms**2
        )

    def query_norms(self, queries: np.ndarray) -> np.ndarray:
        return squared_norms(queries if self.center is None else queries - self.center)


class Int8Kernel(Kernel):
    """Pixel values 0 … 255, shifted by 128, multiplied in int8 with int32 accumulation: exact, and several times faster."""

    name = "int8"
    slack = np.empty(0, np.int32)
    exact = True
    bytes_per_value = 1
    block = (1024, 1024)

    def prepare_queries(self, queries: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(_shifted(queries))

    def prepare_train(self, start: int, stop: int) -> tuple[torch.Tensor, np.ndarray]:
        rows = self.features[start:stop]
        return torch.from_numpy(_shifted(rows)), self._norms(rows).astype(np.int32)

    def scores(self, queries: Any, train: Any, scratch: Scratch) -> np.ndarray:
        rows, norms = train
        tile = torch._int_mm(queries, rows.T, out=scratch.get("product", len(queries), len(rows), torch.int32)).numpy()
        compiled.double_less(tile, norms)
        return tile

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


class QuantizedKernel(Kernel):
    """Inner products of unit vectors, each rounded to int8 with a scale of its own, for processors that multiply those faster.

    ⟨q, x⟩ − ⟨q̂, x̂⟩ = ⟨q, x − x̂⟩ + ⟨q − q̂, x̂⟩, so that the error is at most ‖q‖·‖x − x̂‖, the slack of x, and
    ‖q − q̂‖·‖x̂‖.
    """

    name = "quantized"
    coarse = True
    bytes_per_value = 1
    block = (512, 1024)

    def __init__(self, features: np.ndarray, metric: Metric) -> None:
        super().__init__(features, metric)
        self.largest = 0.0
        lost = np.empty(len(features))
        for start in range(0, len(features), self.block[1]):
            rounded = self.train(start)
            lost[start : start + self.block[1]] = rounded.lost
            self.largest = max(self.largest, float(rounded.lengths.max()))
        self.slack = np.nextafter((LONGEST * lost).astype(np.float32), np.float32(np.inf))

    def prepare_queries(self, queries: np.ndarray) -> "_Quantized":
        return _Quantized(queries)

    def prepare_train(self, start: int, stop: int) -> "_Quantized":
        return _Quantized(self.features[start:stop])

    def scores(self, queries: Any, train: Any, scratch: Scratch) -> np.ndarray:
        shape = len(queries.scales), len(train.scales)
        product = torch._int_mm(
            queries.rounded, train.rounded.T, out=scratch.get("product", *shape, torch.int32)
        ).numpy()
        tile = scratch.get("tile", *shape, torch.float32).numpy()
        compiled.dequantize(product, queries.scales, train.scales, tile)
        return tile

    def epsilon(self, queries: np.ndarray) -> np.ndarray:
        rounded = _Quantized(queries)
        # Four roundings of a score.
        return rounded.lost * self.largest + _gamma(4 + COMPARED) * (
            rounded.lengths * self.largest + float(self.slack.max())
        )

    @staticmethod
    def fits(features: np.ndarray) -> bool:
        """Whether no product can overflow int32."""
        return features.shape[1] * 127**2 < 2**31


class _Quantized:
    """Rows float32 [N, d] as int8 (`rounded`) times a scale each, and how long they are then and what they have lost."""

    def __init__(self, rows: np.ndarray) -> None:
        rounded, self.scales = np.empty(rows.shape, np.int8), np.empty(len(rows), np.float32)
        self.lengths, self.lost = np.empty(len(rows)), np.empty(len(rows))
        compiled.quantize(rows, rounded, self.scales, self.lengths, self.lost)
        self.lost *= 1 + 2.0**-40  # float64's own roundings
        self.rounded = torch.from_numpy(rounded)


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
        name, fits = "quantized", len(features) >= MANY and QuantizedKernel.fits(features)
    else:
        name, fits = "int8", Int8Kernel.fits(features)
    return name if fits and _int8_pays(features.shape[1]) else "float32"


KERNELS: dict[str, type[Kernel]] = {kernel.name: kernel for kernel in (Float32Kernel, Int8Kernel, QuantizedKernel)}


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
