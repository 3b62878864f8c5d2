"""Kernels that multiply in int8: several times faster than float32, where the features allow it."""

from functools import partial
from typing import Any

import numpy as np

from side_ray.search.cpu_int8 import pairs, tiles
from side_ray.search.cpu_int8 import products as int8_products
from side_ray.search.cpu_int8 import rows as row_loops
from side_ray.search.cpu_int8.products import Fastest, PanelProduct, TorchProduct
from side_ray.search.exact import in_blocks, rows_of
from side_ray.search.kernels import COMPARED, KEPT_BYTES, Float32Kernel, Kernel, Queries, gamma
from side_ray.search.memory import Scratch, borrowed, empty
from side_ray.search.neighbors import LONGEST, Metric
from side_ray.search.topk import Candidates
from side_ray.search.workers import workers

MANY = 2_000
"""Training images from which on a faster product outweighs the wider margin of its candidates."""
STRIP, BLOCK = 32, 84 * tiles.WIDTH
"""Queries and training images whose products (516 KiB) stay in a processor's cache until they are looked at."""
SHORT = 32_700
"""Unit vectors times this fit int16, and their products int32."""
SIFTED = 2**18
"""Values of training images in int16 that stay in a processor's cache while many pairs are compared."""


class Int8Kernel(Kernel):
    """What both have in common."""

    bytes_per_value = 1
    block = (1024, BLOCK)

    def __init__(self, features: np.ndarray, metric: Metric, threads: int = 1) -> None:
        super().__init__(features, metric, threads)
        found = int8_products.fastest(features.shape[1]) or Fastest(TorchProduct(), 0.0)
        self.product, self.speedup = found.product, found.speedup

    def _products(self, queries: Any, train: Any, shape: tuple[int, int], scratch: Scratch) -> np.ndarray:
        out = scratch.get("product", *shape, np.int32)
        self.product.multiply(queries, train, out)
        return out

    @staticmethod
    def _strip(scratch: Scratch) -> np.ndarray:
        return scratch.get("product", STRIP, BLOCK, np.int32)


class PixelKernel(Int8Kernel):
    """Pixel values 0 … 255, shifted by 128: exact."""

    name = "int8"
    exact = True

    def __init__(self, features: np.ndarray, metric: Metric, threads: int = 1) -> None:
        super().__init__(features, metric, threads)
        self.slack = np.zeros(len(features), np.int32)

    def prepare_queries(self, queries: np.ndarray) -> Queries:
        return Queries(self.product.queries(_shifted(queries)[0]), np.zeros(len(queries)))

    def prepare_train(self, start: int, stop: int) -> tuple[Any, np.ndarray]:
        shifted, norms = _shifted(self.features[start:stop])
        return self.product.train(shifted), norms

    def scores(self, queries: Queries, train: Any, scratch: Scratch) -> np.ndarray:
        rows, norms = train
        tile = self._products(queries.rows, rows, (len(queries.epsilon), len(norms)), scratch)
        tiles.double_less(tile, norms)
        return tile

    def take(self, queries: Queries, train: Any, scratch: Scratch, top: Candidates, column: int) -> np.ndarray | None:
        if not isinstance(self.product, PanelProduct):
            return super().take(queries, train, scratch, top, column)
        panels, norms = train
        return top.take_by(partial(tiles.take_pixels, *queries.rows, panels, norms, self._strip(scratch)), column)

    def query_norms(self, queries: np.ndarray) -> np.ndarray:
        return _shifted(queries)[1].astype(np.float64)

    @staticmethod
    def fits(features: np.ndarray) -> bool:
        """Whether all values are whole numbers 0 … 255, and no score can overflow int32."""
        return 3 * features.shape[1] * 128**2 < 2**31 and row_loops.are_pixels(features)


class QuantizedKernel(Int8Kernel):
    """Inner products of unit vectors, each rounded to int8 with a scale of its own.

    ⟨q, x⟩ − ⟨q̂, x̂⟩ = ⟨q, x − x̂⟩ + ⟨q − q̂, x̂⟩, so that the error is at most ‖q‖·‖x − x̂‖, the slack of x, and
    ‖q − q̂‖·‖x̂‖. Candidates are compared again in int16 before their values are computed.
    """

    name = "quantized"
    coarse = True

    def __init__(self, features: np.ndarray, metric: Metric, threads: int = 1) -> None:
        super().__init__(features, metric, threads)
        self.short = np.empty(features.shape, np.int16) if 2 * features.size <= KEPT_BYTES else None
        """int16 [n, d], the features times `SHORT`; None where they are too many to be kept."""
        with workers(threads) as run:
            rounded = run(self._round, range(0, len(features), self.block[1]))
        self.largest = max(float(each.lengths.max()) for each in rounded)
        lost = np.concatenate([each.lost for each in rounded])
        # As above; half a unit is lost of each value, and a little more by float32's and float64's roundings.
        short_lost = 0.5 * features.shape[1] ** 0.5 / SHORT + LONGEST * gamma(2)
        self.short_error = short_lost * (2 * LONGEST + short_lost)
        self.slack = empty(lost.shape, np.float32)
        self.slack[:] = np.nextafter((LONGEST * lost).astype(np.float32), np.float32(np.inf))

    def _round(self, start: int) -> "_Quantized":
        if self.short is not None:
            block = slice(start, start + self.block[1])
            row_loops.shorten(self.features[block], SHORT, self.short[block])
        return self.train(start)[1]

    def prepare_queries(self, queries: np.ndarray) -> Queries:
        rounded = _Quantized(queries)
        # Four roundings of a score.
        epsilon = rounded.lost * self.largest + gamma(4 + COMPARED) * (
            rounded.lengths * self.largest + float(self.slack.max())
        )
        return Queries((self.product.queries(rounded.rows), rounded.scales), epsilon)

    def prepare_train(self, start: int, stop: int) -> "tuple[Any, _Quantized]":
        rounded = _Quantized(self.features[start:stop])
        rows = self.product.train(rounded.rows)
        del rounded.rows
        return rows, rounded

    def scores(self, queries: Queries, train: Any, scratch: Scratch) -> np.ndarray:
        (rows, scales), (images, rounded) = queries.rows, train
        shape = len(scales), len(rounded.scales)
        product = self._products(rows, images, shape, scratch)
        tile = scratch.get("tile", *shape, np.float32)
        tiles.dequantize(product, scales, rounded.scales, tile)
        return tile

    def take(self, queries: Queries, train: Any, scratch: Scratch, top: Candidates, column: int) -> np.ndarray | None:
        if not isinstance(self.product, PanelProduct):
            return super().take(queries, train, scratch, top, column)
        (rows, scales), (panels, rounded) = queries.rows, train
        step = partial(tiles.take_quantized, *rows, panels, scales, rounded.scales, self._strip(scratch))
        return top.take_by(step, column)

    @staticmethod
    def fits(features: np.ndarray) -> bool:
        """Whether no product can overflow int32."""
        return features.shape[1] * 127**2 < 2**31

    def sift(
        self, queries: np.ndarray, count: np.ndarray, columns: np.ndarray, lowest: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.short is None:
            return count, columns
        rows, products = rows_of(count), np.empty(columns.size, np.int32)
        with borrowed() as scratch:
            ordered = in_blocks(rows, columns, max(1, SIFTED // queries.shape[1]), scratch)
            short = scratch.get("short", len(queries), queries.shape[1], np.int16)
            row_loops.shorten(queries, SHORT, short)
            pairs.short_products(short, self.short, ordered, products)
        kept = products >= ((lowest - self.short_error) * SHORT**2)[rows]
        return np.bincount(rows[kept], minlength=len(count)), columns[kept]


KERNELS: dict[str, type[Kernel]] = {kernel.name: kernel for kernel in (Float32Kernel, PixelKernel, QuantizedKernel)}


def choose_kernel(features: np.ndarray, metric: Metric) -> str:
    """The fastest kernel on this machine that fits the features."""
    found = int8_products.fastest(features.shape[1])
    if found is None or found.speedup < 1:
        return "float32"
    if metric == "ip":
        return "quantized" if len(features) >= MANY and QuantizedKernel.fits(features) else "float32"
    return "int8" if PixelKernel.fits(features) else "float32"


class _Quantized:
    """Rows float32 [N, d] as int8 (`rows`) times a scale each, and how long they are then and what they have lost."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.scales = np.empty(rows.shape, np.int8), empty((len(rows),), np.float32)
        self.lengths, self.lost = np.empty(len(rows)), np.empty(len(rows))
        row_loops.quantize(rows, self.rows, self.scales, self.lengths, self.lost)
        self.lost *= 1 + 2.0**-40  # float64's own roundings


def _shifted(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shifted, norms = np.empty(pixels.shape, np.int8), empty((len(pixels),), np.int32)
    row_loops.shift(pixels, shifted, norms)
    return shifted, norms
