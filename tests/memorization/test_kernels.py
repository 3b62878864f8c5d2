"""The error bounds that exactness rests on hold, at every scale."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from side_ray.memorization.kernels import (
    Float32Kernel,
    Int8Kernel,
    Kernel,
    QuantizedKernel,
    Scratch,
    choose_kernel,
    full_precision,
)
from side_ray.memorization.topk import Candidates


def tile_of(kernel: Kernel, queries: np.ndarray) -> np.ndarray:
    with full_precision():
        return kernel.scores(kernel.prepare_queries(queries), kernel.train(0), Scratch()).astype(np.float64)


def true_scores(queries: np.ndarray, train: np.ndarray, kernel: Kernel) -> np.ndarray:
    q, x = queries.astype(np.float64), train.astype(np.float64)
    if kernel.metric == "ip":
        return q @ x.T
    distances = ((q[:, None] - x[None]) ** 2).sum(axis=2)
    return kernel.query_norms(queries)[:, None] - distances


def features(seed: int, rows: int, dimension: int, scale: float, offset: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (offset + scale * rng.standard_normal((rows, dimension))).astype(np.float32)


cases = st.tuples(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 7, 64, 700]),
    st.sampled_from([1e-4, 1.0, 1e4]),
    st.sampled_from([0.0, 3.0, -1e3]),
)


@given(cases)
def test_float32_distances_stay_within_their_bound(case: tuple[int, int, float, float]) -> None:
    seed, dimension, scale, offset = case
    train, queries = features(seed, 40, dimension, scale, offset), features(seed + 1, 9, dimension, scale, offset)
    queries[0] = train[3]
    kernel = Float32Kernel(train, "l2")
    error = np.abs(tile_of(kernel, queries) - true_scores(queries, train, kernel))
    assert (error <= kernel.epsilon(queries)[:, None]).all()


@given(cases, st.sampled_from([1, 3, 40]))
def test_inner_products_stay_within_their_bounds(case: tuple[int, int, float, float], spread: int) -> None:
    """Also where a few values of a vector are much larger than the others, and of vectors that are 0."""
    seed, dimension, _, _ = case
    dimension = max(dimension, 2)  # the int8 product is wrong for rows of one value, and not chosen for them
    train, queries = (features(seed + i, 40, dimension, 1, 0).astype(np.float64) ** spread for i in range(2))
    train, queries = (
        (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32) for rows in (train, queries)
    )
    train[0] = queries[1] = 0
    for kernel in (Float32Kernel(train, "ip"), QuantizedKernel(train, "ip")):
        slack = kernel.slack if kernel.slack.size else np.zeros(len(train))
        error = np.abs(tile_of(kernel, queries) - true_scores(queries, train, kernel))
        assert (error <= kernel.epsilon(queries)[:, None] + slack).all()
        assert (error <= kernel.widest(kernel.epsilon(queries))[:, None]).all()


def test_the_int8_bound_does_not_give_all_away() -> None:
    rows = features(0, 40, 512, 1, 0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    kernel = QuantizedKernel(rows, "ip")
    assert kernel.widest(kernel.epsilon(rows)).max() < 0.03


def test_int8_refuses_inner_products_that_could_overflow() -> None:
    assert QuantizedKernel.fits(np.zeros((1, 133_144), np.float32))
    assert not QuantizedKernel.fits(np.zeros((1, 133_145), np.float32))


@given(cases)
def test_the_float32_bound_does_not_give_all_away(case: tuple[int, int, float, float]) -> None:
    seed, dimension, scale, offset = case
    train = features(seed, 40, dimension, scale, offset)
    kernel = Float32Kernel(train, "l2")
    spread = np.abs(true_scores(train[:5], train, kernel)).max()
    assert (kernel.epsilon(train[:5]) <= 1e-3 * spread + 1e-30).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 64, 3072]))
def test_int8_scores_are_exact(seed: int, dimension: int) -> None:
    rng = np.random.default_rng(seed)
    train = rng.integers(0, 256, (30, dimension)).astype(np.float32)
    queries = rng.integers(0, 256, (8, dimension)).astype(np.float32)
    train[0], train[1], queries[0], queries[1] = 0, 255, 0, 255
    kernel = Int8Kernel(train, "l2")
    np.testing.assert_array_equal(tile_of(kernel, queries), true_scores(queries, train, kernel))


@pytest.mark.parametrize("value", [0.5, -1, 256, np.nan, 1e20])
def test_int8_takes_pixels_only(value: float) -> None:
    pixels = np.full((4, 6), 200, np.float32)
    assert Int8Kernel.fits(pixels)
    pixels[2, 3] = value
    assert not Int8Kernel.fits(pixels)


def test_int8_refuses_what_could_overflow() -> None:
    assert Int8Kernel.fits(np.zeros((1, 43_690), np.float32))
    assert not Int8Kernel.fits(np.zeros((1, 43_691), np.float32))


def test_int8_is_not_chosen_where_it_is_wrong() -> None:
    assert choose_kernel(np.arange(100, dtype=np.float32)[:, None], "l2") == "float32"


def test_full_precision_is_put_back() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        with full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def memory(rows: int, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    return np.empty((rows, capacity), np.int32), np.empty((rows, capacity), np.float32)


def test_a_true_neighbour_is_never_dropped() -> None:
    """The worst case that the bound allows: every error as large as ε and the slack together, for and against."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        true = rng.normal(0.1, 0.1, (4, 600))
        epsilon, slack = rng.uniform(0, 0.02, 4), rng.uniform(0, 0.05, 600).astype(np.float32)
        error = (epsilon[:, None] + slack) * (1 - 1e-5)
        tile = (true + np.where(rng.random(true.shape) < 0.5, error, -error)).astype(np.float32)
        top = Candidates(epsilon, slack, 10, *memory(4, 300))
        for start in range(0, 600, 150):
            top.take(tile[:, start : start + 150], start)
        rows, columns, scores = top.listed()
        np.testing.assert_array_equal(scores, tile[rows, columns])
        assert not top.lost.any()
        for row, wanted in enumerate(np.argsort(-true, axis=1)[:, :10]):
            kept = columns[rows == row]
            assert set(wanted) <= set(kept.tolist())
            assert len(set(kept.tolist())) == kept.size < 300


def test_a_query_with_too_many_candidates_is_lost_and_the_others_are_not() -> None:
    tile = np.random.default_rng(1).random((3, 500)).astype(np.float32)
    tile[1] = 1.0
    top = Candidates(np.zeros(3), np.empty(0, np.float32), 5, *memory(3, 40))
    assert top.take(tile, 0) is None
    rows, columns, _ = top.listed()
    assert top.lost.tolist() == [False, True, False]
    for row in (0, 2):
        assert sorted(columns[rows == row]) == sorted(np.argsort(-tile[row])[:5])
