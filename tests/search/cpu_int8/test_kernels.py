"""The error bounds of the int8 kernels, and what they fit."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from side_ray.search.cpu_int8 import make, tiles
from side_ray.search.cpu_int8.kernels import Int8Kernel, PixelKernel, QuantizedKernel, fitting

ROOT = Path(__file__).parents[3]


def tile_of(kernel: Int8Kernel, queries: np.ndarray) -> np.ndarray:
    out = np.empty((len(queries), len(kernel.features)), kernel.dtype)
    kernel.scores(kernel.prepare(queries), 0, len(kernel.features), out)
    return out.astype(np.float64)


def unit_vectors(seed: int, rows: int, dimension: int, spread: int = 1) -> np.ndarray:
    data = np.random.default_rng(seed).standard_normal((rows, dimension)) ** spread
    return (data / np.linalg.norm(data, axis=1, keepdims=True)).astype(np.float32)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 7, 64, 300]), st.sampled_from([1, 3, 40]))
def test_inner_products_stay_within_their_bounds(seed: int, dimension: int, spread: int) -> None:
    """Also where a few values of a vector are much larger than the others, and of vectors that are 0."""
    train, queries = unit_vectors(seed, 40, dimension, spread), unit_vectors(seed + 1, 40, dimension, spread)
    train[0] = queries[1] = 0
    kernel = QuantizedKernel(train, "ip")
    error = np.abs(tile_of(kernel, queries) - queries.astype(np.float64) @ train.astype(np.float64).T)
    prepared = kernel.prepare(queries)
    epsilon = prepared.rows[2]
    assert (error <= epsilon[:, None] + kernel.slack).all()
    assert (epsilon[:, None] + kernel.slack <= prepared.error[:, None]).all()


def test_the_bound_is_no_wider_than_it_need_be() -> None:
    rows = unit_vectors(0, 40, 512)
    assert QuantizedKernel(rows, "ip").prepare(rows).error.max() < 0.03


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 3, 64, 500]))
def test_scores_of_pixels_are_exact(seed: int, dimension: int) -> None:
    rng = np.random.default_rng(seed)
    train, queries = (rng.integers(0, 256, (rows, dimension)).astype(np.float32) for rows in (60, 9))
    train[0], train[1], queries[0], queries[1] = 0, 255, 0, 255
    kernel = PixelKernel(train, "l2")
    q, x = queries.astype(np.int64), train.astype(np.int64)
    distances = ((q[:, None] - x[None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(kernel.query_norms(queries)[:, None] - tile_of(kernel, queries), distances)


@pytest.mark.parametrize("value", [0.5, -1, 256, np.nan, 1e20])
def test_the_pixel_kernel_takes_pixels_only(value: float) -> None:
    pixels = np.full((4, 6), 200, np.float32)
    assert fitting(pixels, "l2", True) is PixelKernel
    kernel = PixelKernel(pixels.copy(), "l2")
    pixels[2, 3] = value
    assert fitting(pixels, "l2", True) is None
    assert not kernel.fits(pixels)


@pytest.mark.parametrize(("metric", "most"), [("l2", 43_690), ("ip", 133_144)])
def test_features_whose_scores_could_overflow_are_refused(metric: str, most: int) -> None:
    assert fitting(np.zeros((1, most), np.float32), metric, True) is not None  # type: ignore[arg-type]
    assert fitting(np.zeros((1, most + 1), np.float32), metric, True) is None  # type: ignore[arg-type]


@pytest.mark.skipif(tiles.MULTIPLIES, reason="the processor has AVX-512 VNNI")
def test_a_processor_without_the_instruction_takes_another_kernel() -> None:
    assert make(np.zeros((5000, 4), np.float32), np.arange(5000), "l2", 1, False) is None


@pytest.mark.long
def test_a_wrong_range_is_refused_when_bounds_are_checked() -> None:
    """In a process of its own, because the check is compiled in; the ranges of a real search pass it."""
    code = """
import numpy as np
from side_ray.search import Index
from side_ray.search.cpu_int8 import memory, tiles

train = np.random.default_rng(0).integers(0, 256, (200, 6)).astype(np.float32)
indices = [Index(train, np.arange(200), "l2", engine="torch", kernel=name) for name in ("float32", "cpu_int8")]
found = [index.search(train[:20], 3)[0] for index in indices]
assert np.array_equal(found[0].ids, found[1].ids)

def wrong(**changes):
    kept = memory.select(np.zeros(2), np.zeros(90, np.int32), 3, 90)._replace(**changes)
    queries, panels = memory.panels_of_queries(np.ones((2, 4), np.int8)), memory.panels_of_train(np.ones((90, 4), np.int8))
    tiles.take_pixels(*queries, panels, np.zeros(90, np.int32), np.empty((32, 96), np.int32), 0, kept)
    return kept

kept = wrong()
for changes in ({"slack": np.zeros(89, np.int32)}, {"scores": kept.scores[:, :-1].copy()}, {"lanes": kept.lanes[:1].copy()}):
    try:
        wrong(**changes)
    except IndexError:
        continue
    raise SystemExit(f"not refused: {list(changes)}")
kept.columns[0, 0] = 90
try:
    tiles.promising(kept)
except IndexError:
    raise SystemExit(0)
raise SystemExit("not refused: a training row beyond the last")
"""
    # Without optimization most of the compiler's time is saved.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SIDE_RAY_CHECK_BOUNDS": "1", "NUMBA_OPT": "0"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
