"""The error bounds that exactness rests on hold, at every scale."""

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from side_ray.search.cpu_int8 import products as int8_products
from side_ray.search.cpu_int8 import tiles
from side_ray.search.cpu_int8.kernels import PixelKernel, QuantizedKernel, choose_kernel
from side_ray.search.cpu_int8.products import PanelProduct, TorchProduct
from side_ray.search.kernels import Float32Kernel, Kernel, full_precision
from side_ray.search.memory import Scratch
from side_ray.search.topk import Candidates


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
    assert (error <= kernel.prepare_queries(queries).epsilon[:, None]).all()


@given(cases, st.sampled_from([1, 3, 40]))
def test_inner_products_stay_within_their_bounds(case: tuple[int, int, float, float], spread: int) -> None:
    """Also where a few values of a vector are much larger than the others, and of vectors that are 0."""
    seed, dimension, _, _ = case
    dimension = max(dimension, 2)  # torch's int8 product is wrong for rows of one value, and not chosen for them
    train, queries = (features(seed + i, 40, dimension, 1, 0).astype(np.float64) ** spread for i in range(2))
    train, queries = (
        (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32) for rows in (train, queries)
    )
    train[0] = queries[1] = 0
    for kernel in (Float32Kernel(train, "ip"), QuantizedKernel(train, "ip")):
        slack = kernel.slack if kernel.slack.size else np.zeros(len(train))
        error = np.abs(tile_of(kernel, queries) - true_scores(queries, train, kernel))
        assert (error <= kernel.prepare_queries(queries).epsilon[:, None] + slack).all()
        assert (error <= kernel.widest(kernel.prepare_queries(queries).epsilon)[:, None]).all()


def test_the_int8_bound_does_not_give_all_away() -> None:
    rows = features(0, 40, 512, 1, 0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    kernel = QuantizedKernel(rows, "ip")
    assert kernel.widest(kernel.prepare_queries(rows).epsilon).max() < 0.03


def test_int8_refuses_inner_products_that_could_overflow() -> None:
    assert QuantizedKernel.fits(np.zeros((1, 133_144), np.float32))
    assert not QuantizedKernel.fits(np.zeros((1, 133_145), np.float32))


@given(cases)
def test_the_float32_bound_does_not_give_all_away(case: tuple[int, int, float, float]) -> None:
    seed, dimension, scale, offset = case
    train = features(seed, 40, dimension, scale, offset)
    kernel = Float32Kernel(train, "l2")
    spread = np.abs(true_scores(train[:5], train, kernel)).max()
    assert (kernel.prepare_queries(train[:5]).epsilon <= 1e-3 * spread + 1e-30).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 64, 3072]))
def test_int8_scores_are_exact(seed: int, dimension: int) -> None:
    rng = np.random.default_rng(seed)
    train = rng.integers(0, 256, (30, dimension)).astype(np.float32)
    queries = rng.integers(0, 256, (8, dimension)).astype(np.float32)
    train[0], train[1], queries[0], queries[1] = 0, 255, 0, 255
    kernel = PixelKernel(train, "l2")
    np.testing.assert_array_equal(tile_of(kernel, queries), true_scores(queries, train, kernel))


@pytest.mark.parametrize("value", [0.5, -1, 256, np.nan, 1e20])
def test_int8_takes_pixels_only(value: float) -> None:
    pixels = np.full((4, 6), 200, np.float32)
    assert PixelKernel.fits(pixels)
    pixels[2, 3] = value
    assert not PixelKernel.fits(pixels)


def test_int8_refuses_what_could_overflow() -> None:
    assert PixelKernel.fits(np.zeros((1, 43_690), np.float32))
    assert not PixelKernel.fits(np.zeros((1, 43_691), np.float32))


def test_full_precision_is_put_back() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        with full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def memory(rows: int, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    shape = rows, capacity + tiles.SPARE
    return np.empty(shape, np.int32), np.empty(shape, np.float32)


def kept(top: Candidates, epsilon: np.ndarray) -> list[dict[int, float]]:
    """All that is still in, of each row: scores by column, the promising ones first."""
    count, columns, scores = top.promising()
    rows = [
        dict(zip(*pair, strict=True))
        for pair in zip(np.split(columns, np.cumsum(count)[:-1]), np.split(scores, np.cumsum(count)[:-1]), strict=True)
    ]
    assert all(len(row) >= top.held.k for row, lost in zip(rows, top.lost, strict=True) if not lost)
    further, columns = top.others(epsilon, np.full(count.size, -np.inf))
    for row, more in zip(rows, np.split(columns, np.cumsum(further)[:-1]), strict=True):
        assert not set(row) & set(more.tolist())
        row.update(dict.fromkeys(more.tolist(), np.nan))
    return rows


@pytest.mark.parametrize("step", [150, 37, 600])
def test_a_true_neighbour_is_never_dropped(step: int) -> None:
    """The worst case that the bound allows: every error as large as ε and the slack together, for and against."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        true = rng.normal(0.1, 0.1, (4, 600))
        epsilon, slack = rng.uniform(0, 0.02, 4), rng.uniform(0, 0.05, 600).astype(np.float32)
        error = (epsilon[:, None] + slack) * (1 - 1e-5)
        tile = (true + np.where(rng.random(true.shape) < 0.5, error, -error)).astype(np.float32)
        top = Candidates(epsilon, slack, 10, *memory(4, 600))
        for start in range(0, 600, step):
            top.take(tile[:, start : start + step].copy(), start)
        assert not top.lost.any()
        for row, (found, wanted) in enumerate(zip(kept(top, epsilon), np.argsort(-true, axis=1)[:, :10], strict=True)):
            assert set(wanted.tolist()) <= set(found)
            assert len(found) < 400
            for column, score in found.items():
                assert np.isnan(score) or score == tile[row, column]


def test_a_query_with_too_many_candidates_is_lost_and_the_others_are_not() -> None:
    tile = np.random.default_rng(1).random((3, 500)).astype(np.float32)
    tile[1] = 1.0
    top = Candidates(np.zeros(3), np.zeros(500, np.float32), 5, *memory(3, 40))
    assert top.take(tile, 0) is None
    found = kept(top, np.zeros(3))
    assert top.lost.tolist() == [False, True, False]
    assert not found[1]
    for row in (0, 2):
        assert set(np.argsort(-tile[row])[:5].tolist()) <= set(found[row])


@pytest.mark.parametrize("classes", [1, 2, 10, 16, 100, 256])
def test_images_that_come_in_turns_do_not_crowd_the_candidates(classes: int) -> None:
    """All neighbours of a query are of its class, one image in so many, and their lanes are not only a few."""
    rng = np.random.default_rng(2)
    n, k = 60_000, 50
    tile = rng.normal(0, 0.05, (3, n)).astype(np.float32)
    tile[:, 3 % classes :: classes] += np.float32(0.6)
    top = Candidates(np.zeros(3), np.zeros(n, np.float32), k, *memory(3, 16 * k + 1024))
    for start in range(0, n, 4032):
        top.take(tile[:, start : start + 4032].copy(), start)
    count, columns, _ = top.promising()
    assert not top.lost.any()
    assert (count < 2 * k).all()
    first = columns[: count[0]].tolist()
    assert set(np.argsort(-tile[0])[:k].tolist()) <= set(first)


@pytest.mark.skipif(not tiles.MULTIPLIES, reason="needs a processor with AVX-512 VNNI")
@pytest.mark.parametrize(
    ("q", "t", "d"), [(1, 1, 1), (7, 47, 3), (8, 48, 4), (9, 49, 5), (70, 200, 130), (3, 97, 3072)]
)
def test_panels_are_multiplied_exactly(q: int, t: int, d: int) -> None:
    rng = np.random.default_rng(3)
    a, b = (rng.integers(-128, 128, (size, d), np.int8) for size in (q, t))
    a[0], b[0], a[-1], b[-1] = -128, -128, 127, 127
    product = PanelProduct()
    out = np.full((q, t), 7, np.int32)
    product.multiply(product.queries(a), product.train(b), out)
    np.testing.assert_array_equal(out, a.astype(np.int64) @ b.astype(np.int64).T)


def test_the_probe_takes_no_product_that_is_wrong() -> None:
    class Wrong(TorchProduct):
        def multiply(self, queries, train, out):
            super().multiply(queries, train, out)
            out[1, 1] += 1

    with mock.patch.object(int8_products, "TorchProduct", Wrong), mock.patch.object(tiles, "MULTIPLIES", False):
        assert int8_products.fastest.__wrapped__(64) is None
        with mock.patch.object(int8_products, "fastest", int8_products.fastest.__wrapped__):
            assert choose_kernel(np.zeros((100, 64), np.float32), "l2") == "float32"
    found = int8_products.fastest(64)
    assert found is not None
    assert isinstance(found.product, PanelProduct) == tiles.MULTIPLIES
