"""The two kernels that multiply in int8, exact in int32."""

from typing import Any

import numpy as np

from side_ray.search.blocked import workers
from side_ray.search.candidates import Pairs, rounded_down
from side_ray.search.counting import LevelCounter
from side_ray.search.cpu_int8 import pairs, tiles
from side_ray.search.cpu_int8 import rows as row_loops
from side_ray.search.cpu_int8.memory import Panels, empty, panels_of_queries, panels_of_train, select
from side_ray.search.float32 import gamma
from side_ray.search.kernels import Found, Prepared, TileKernel
from side_ray.search.neighbors import LONGEST, Metric

MANY = 2_000
"""Training images from which on the faster product outweighs the wider margin of quantized candidates."""
STRIP = 32
"""Queries whose products with a block of training images (516 KiB) stay in a processor's cache until they are looked at."""
KEPT_BYTES = 2**29
"""Converted training features that a kernel keeps between calls, at most."""


class Int8Kernel(TileKernel):
    """What both kernels have in common: products of strips, of which only what can matter is kept."""

    block = (4096, 84 * tiles.WIDTH)
    slack: np.ndarray
    """[n] of `dtype`: a score may be wrong by ε of the query and the slack of the training image."""

    def __init__(self, features: np.ndarray, metric: Metric, threads: int = 1) -> None:
        super().__init__(features, metric)
        self.kept: dict[int, Any] | None = {} if features.size <= KEPT_BYTES else None
        with workers(threads) as run:
            self._setup(run(self.train, range(0, len(features), self.block[1])))

    def _setup(self, blocks: list[Any]) -> None:
        """Set the slack from the prepared blocks of training images."""

    def train(self, start: int) -> Any:
        """The block of training images that begins at `start`, as panels and what scores need besides."""
        if self.kept is not None and start in self.kept:
            return self.kept[start]
        prepared = self._prepare_train(self.features[start : start + self.block[1]])
        if self.kept is not None:
            self.kept[start] = prepared
        return prepared

    def _prepare_train(self, features: np.ndarray) -> Any:
        raise NotImplementedError

    def _select(self, prepared: Any, epsilon: np.ndarray, k: int, width: int) -> tiles.Selection:
        """Take all training images in, strip by strip."""
        selection = select(epsilon, self.slack, k, width)
        strip = empty((STRIP, self.block[1]), np.int32)
        for start in range(0, len(self.features), self.block[1]):
            self._take(prepared, self.train(start), strip, start, selection)
        selection.taken[selection.lost] = 0
        return selection

    def _take(self, prepared: Any, train: Any, strip: np.ndarray, start: int, selection: tiles.Selection) -> None:
        raise NotImplementedError


class PixelKernel(Int8Kernel):
    """Pixel values 0 … 255, shifted by 128: exact."""

    name = "pixels"
    settles = True
    dtype: np.dtype = np.dtype(np.int32)

    def _setup(self, blocks: list[Any]) -> None:
        self.slack = np.zeros(len(self.features), np.int32)

    def prepare(self, queries: np.ndarray) -> Prepared:
        return Prepared(panels_of_queries(_shifted(queries)[0]), np.zeros(len(queries)))

    def _prepare_train(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shifted, norms = _shifted(features)
        return panels_of_train(shifted), norms

    def scores(self, queries: Prepared, start: int, stop: int, out: np.ndarray) -> None:
        panels, norms = self.train(start)
        tiles.multiply(*queries.rows, panels, norms.size, out)
        out *= 2
        out -= norms

    def find(self, queries: np.ndarray, first: int, k: int, width: int, counter: LevelCounter | None) -> Found:
        if not k:
            return super().find(queries, first, k, width, counter)
        prepared = self.prepare(queries)
        selection = self._select(prepared.rows, prepared.error, k, width)
        # Scores are exact, so those that surely reach the floor are all that can be among the nearest.
        count, columns, scores = tiles.promising(selection)
        rows = _rows_of(count)
        values = np.sqrt(self.query_norms(queries)[rows] - scores)
        return Found(rows, columns, values, selection.lost, None, np.zeros(len(queries), bool))

    def _take(self, prepared: Panels, train: Any, strip: np.ndarray, start: int, selection: tiles.Selection) -> None:
        tiles.take_pixels(*prepared, *train, strip, start, selection)

    def query_norms(self, queries: np.ndarray) -> np.ndarray:
        return _shifted(queries)[1].astype(np.float64)

    def fits(self, queries: np.ndarray) -> bool:
        """Whether all values are whole numbers 0 … 255, and no score can overflow int32."""
        return are_pixels(queries)


class QuantizedKernel(Int8Kernel):
    """Inner products of unit vectors, each rounded to int8 with a scale of its own.

    ⟨q, x⟩ − ⟨q̂, x̂⟩ = ⟨q, x − x̂⟩ + ⟨q − q̂, x̂⟩, so that the error is at most ‖q‖·‖x − x̂‖, the slack of x, and
    ‖q − q̂‖·‖x̂‖.
    """

    name = "quantized"

    def _setup(self, blocks: list[Any]) -> None:
        self.largest = max(float(rounded.lengths.max()) for _, rounded in blocks)
        lost = np.concatenate([rounded.lost for _, rounded in blocks])
        self.slack = empty(lost.shape, np.float32)
        self.slack[:] = np.nextafter((LONGEST * lost).astype(np.float32), np.float32(np.inf))
        for _, rounded in blocks:
            del rounded.lengths, rounded.lost

    def prepare(self, queries: np.ndarray) -> Prepared:
        rounded, widest = Quantized(queries), float(self.slack.max())
        # Four roundings of a score, and three where it is compared: with its slack, with a threshold's width, with a bound.
        epsilon = rounded.lost * self.largest + gamma(7) * (rounded.lengths * self.largest + widest)
        return Prepared((panels_of_queries(rounded.rows), rounded.scales, epsilon), epsilon + widest)

    def _prepare_train(self, features: np.ndarray) -> "tuple[np.ndarray, Quantized]":
        rounded = Quantized(features)
        panels = panels_of_train(rounded.rows)
        del rounded.rows
        return panels, rounded

    def scores(self, queries: Prepared, start: int, stop: int, out: np.ndarray) -> None:
        (rows, scales, _), (panels, rounded) = queries.rows, self.train(start)
        product = np.empty(out.shape, np.int32)
        tiles.multiply(*rows, panels, rounded.scales.size, product)
        np.multiply(scales[:, None], rounded.scales, out=out)
        out *= product

    def find(self, queries: np.ndarray, first: int, k: int, width: int, counter: LevelCounter | None) -> Found:
        prepared = self.prepare(queries)
        epsilon = prepared.rows[2]
        selection = self._select(prepared.rows, epsilon, k, width)
        counts, uncounted = None, np.zeros(len(queries), bool)
        if counter is not None:
            levels = self.levels(counter, queries, np.arange(first, first + len(queries)), prepared)
            # Thresholds only rise: where one is still below all levels, every pair at a level has been kept.
            uncounted = selection.lost | (selection.threshold > levels.lowest)
            endless = np.full(len(queries), np.inf, np.float32)
            listed, columns, scores = tiles.entries(selection, np.where(uncounted, endless, levels.lowest), endless)
            counts = levels.count_pairs(Pairs(_rows_of(listed), columns, scores))
        return Found(*self._nearest(queries, selection, epsilon, k), selection.lost, counts, uncounted)

    def _nearest(
        self, queries: np.ndarray, selection: tiles.Selection, epsilon: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, columns and values of the pairs that are no farther than the k-th nearest of their query."""
        # Entries that surely reach the floor tell what the others must reach.
        count, columns, _ = tiles.promising(selection)
        values = pairs.inner_products(queries, self.features, count, columns)
        farthest = _farthest(count, values, k)
        # A value of -1 may have been clipped: it is no bound on scores.
        bound = rounded_down(np.where(farthest > -1, farthest - epsilon, -np.inf), self.dtype)
        further, others, _ = tiles.entries(selection, bound, selection.floor)
        rows = np.concatenate([_rows_of(count), _rows_of(further)])
        columns = np.concatenate([columns, others])
        values = np.concatenate([values, pairs.inner_products(queries, self.features, further, others)])
        kept = values >= farthest[rows]
        return rows[kept], columns[kept], values[kept]

    def _take(self, prepared: Any, train: Any, strip: np.ndarray, start: int, selection: tiles.Selection) -> None:
        (rows, scales, _), (panels, rounded) = prepared, train
        tiles.take_quantized(*rows, panels, scales, rounded.scales, strip, start, selection)

    def query_norms(self, queries: np.ndarray) -> np.ndarray:
        raise NotImplementedError("inner products need no norms")


def fitting(features: np.ndarray, metric: Metric, wanted: bool) -> type[Int8Kernel] | None:
    """The kernel that such features can be searched by; None where there is none, or it is not faster and not `wanted`."""
    if not (tiles.MULTIPLIES or wanted):
        return None
    if metric == "l2":
        return PixelKernel if are_pixels(features) else None
    # No product may overflow int32.
    fits = features.shape[1] * 127**2 < 2**31
    return QuantizedKernel if fits and (wanted or len(features) >= MANY) else None


def are_pixels(features: np.ndarray) -> bool:
    """Whether all values are whole numbers 0 … 255, and no score can overflow int32."""
    return 3 * features.shape[1] * 128**2 < 2**31 and row_loops.are_pixels(features)


class Quantized:
    """Rows float32 [N, d] as int8 (`rows`) times a scale each, with their lengths then and the lengths of what they lack."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.scales = np.empty(rows.shape, np.int8), empty((len(rows),), np.float32)
        self.lengths, self.lost = np.empty(len(rows)), np.empty(len(rows))
        row_loops.quantize(rows, self.rows, self.scales, self.lengths, self.lost)
        self.lost *= 1 + 2.0**-40  # float64's own roundings


def _farthest(count: np.ndarray, values: np.ndarray, k: int) -> np.ndarray:
    """float64 [q], the k-th largest value of each query; -inf where it has fewer."""
    rows = _rows_of(count)
    padded = np.full((count.size, max(k, int(count.max(initial=0)))), -np.inf)
    padded[rows, np.arange(rows.size) - (np.cumsum(count) - count)[rows]] = values
    return np.partition(padded, -k, axis=1)[:, -k]


def _rows_of(count: np.ndarray) -> np.ndarray:
    """int64 [m], the query of each pair, where query i has count[i] of them, one query after the other."""
    return np.repeat(np.arange(count.size), count)


def _shifted(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shifted, norms = np.empty(pixels.shape, np.int8), empty((len(pixels),), np.int32)
    row_loops.shift(pixels, shifted, norms)
    return shifted, norms
