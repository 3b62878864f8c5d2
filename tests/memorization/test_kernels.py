"""The error bounds that exactness rests on hold, at every scale."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from side_ray.memorization.kernels import (
    Bfloat16Kernel,
    Float32Kernel,
    Int8Kernel,
    Kernel,
    Scratch,
    choose_kernel,
    full_precision,
)


def tile_of(kernel: Kernel, queries: np.ndarray) -> np.ndarray:
    with full_precision():
        return kernel.scores(kernel.prepare_queries(queries), kernel.train(0), Scratch(), positive=False).astype(
            np.float64
        )


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


@given(cases)
def test_inner_products_stay_within_their_bounds(case: tuple[int, int, float, float]) -> None:
    seed, dimension, scale, _ = case
    train, queries = features(seed, 40, dimension, scale, 0), features(seed + 1, 9, dimension, scale, 0)
    for kernel in (Float32Kernel(train, "ip"), Bfloat16Kernel(train, "ip")):
        tile = tile_of(kernel, queries)
        bound = kernel.epsilon(queries)[:, None] + kernel.relative * np.abs(tile)
        assert (np.abs(tile - true_scores(queries, train, kernel)) <= bound).all()


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


def test_pruning_never_loses_a_true_neighbour() -> None:
    """The worst case that the bound allows: every error as bad as ε + r|s|, against the k-th and for the others."""
    rng = np.random.default_rng(0)
    kernel = Bfloat16Kernel(features(0, 4, 8, 1, 0), "ip")
    for _ in range(200):
        true = np.sort(rng.normal(0.1, 0.1, 60))[::-1]
        epsilon = 0.01
        low, high = (true - epsilon) / (1 + kernel.relative), (true + epsilon) / (1 - kernel.relative)
        tile = np.where(rng.random(60) < 0.5, low, high)
        kth = np.sort(tile)[::-1][9]
        kept = tile >= kth - kernel.prune_width(np.array([kth]), np.array([epsilon]))[0]
        assert kept[:10].all()
