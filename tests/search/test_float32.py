"""The error bound that exactness rests on holds, at every scale, and is no wider than it need be."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from side_ray.search.float32 import Float32Kernel, full_precision

CASES = st.tuples(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 7, 64, 700]),
    st.sampled_from([1e-4, 1.0, 1e4]),
    st.sampled_from([0.0, 3.0, -1e3]),
)


def tile_of(kernel: Float32Kernel, queries: np.ndarray) -> np.ndarray:
    out = np.empty((len(queries), len(kernel.features)), np.float32)
    with full_precision():
        kernel.scores(kernel.prepare(queries), 0, len(kernel.features), out)
    return out.astype(np.float64)


def true_scores(kernel: Float32Kernel, queries: np.ndarray) -> np.ndarray:
    q, x = queries.astype(np.float64), kernel.features.astype(np.float64)
    if kernel.metric == "ip":
        return q @ x.T
    return kernel.query_norms(queries)[:, None] - ((q[:, None] - x[None]) ** 2).sum(axis=2)


def features(seed: int, rows: int, dimension: int, scale: float, offset: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (offset + scale * rng.standard_normal((rows, dimension))).astype(np.float32)


@settings(deadline=None, max_examples=50)
@given(CASES)
def test_distances_stay_within_their_bound(case: tuple[int, int, float, float]) -> None:
    seed, dimension, scale, offset = case
    train, queries = features(seed, 40, dimension, scale, offset), features(seed + 1, 9, dimension, scale, offset)
    queries[0] = train[3]
    kernel = Float32Kernel(train, "l2")
    error = np.abs(tile_of(kernel, queries) - true_scores(kernel, queries))
    bound = kernel.prepare(queries).error
    assert (error <= bound[:, None]).all()
    assert (bound <= 1e-3 * np.abs(true_scores(kernel, queries)).max() + 1e-30).all()


@settings(deadline=None, max_examples=50)
@given(CASES, st.sampled_from([1, 3, 40]))
def test_inner_products_stay_within_their_bound(case: tuple[int, int, float, float], spread: int) -> None:
    """Also where a few values of a vector are much larger than the others, and of vectors that are 0."""
    seed, dimension, _, _ = case
    both = [features(seed + i, 40, dimension, 1, 0).astype(np.float64) ** spread for i in range(2)]
    train, queries = ((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32) for rows in both)
    train[0] = queries[1] = 0
    kernel = Float32Kernel(train, "ip")
    error = np.abs(tile_of(kernel, queries) - true_scores(kernel, queries))
    assert (error <= kernel.prepare(queries).error[:, None]).all()


def test_full_precision_is_put_back() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        with full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
