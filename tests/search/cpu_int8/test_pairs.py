"""Values of single pairs in machine code."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from side_ray.search import Index
from side_ray.search.cpu_int8 import pairs
from side_ray.search.exact import values_of_pairs


@settings(deadline=None, max_examples=80)
@given(
    st.integers(0, 2**32 - 1),
    st.one_of(st.integers(1, 700), st.sampled_from([1024, 8192, 20_011])),
    st.sampled_from([1, 3, 40]),
)
def test_the_last_bit_is_that_of_the_engine(seed: int, dimension: int, spread: int) -> None:
    """Also of a zero's sign, of equal and opposite vectors, and of values that are clipped."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((12, dimension)) ** spread
    rows = (1.0003 * rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    rows[3], rows[4] = rows[0], -rows[0]
    rows[5], rows[6] = 0, -0.0
    queries, train = rows[[0, 7, 5, 8]], rows
    count = np.array([12, 0, 3, 12])
    columns = np.concatenate([rng.permutation(12)[:size] for size in count])
    found = pairs.inner_products(queries, train, count, columns)
    wanted = values_of_pairs(queries, train, np.repeat(np.arange(4), count), columns, "ip")
    np.testing.assert_array_equal(found.view(np.int64), wanted.view(np.int64))


@pytest.mark.parametrize("k", [1, 5, 60])
def test_neighbours_and_values_are_those_of_float32(k: int) -> None:
    """Among many duplicates, near ties, a vector of zeros and opposite vectors."""
    rng = np.random.default_rng(k)
    train = rng.standard_normal((200, 130))
    train[50:100] = train[0] + 1e-6 * rng.standard_normal((50, 130))
    train[100:110] = train[0]
    train[110:115] = -train[0]
    train = (train / np.linalg.norm(train, axis=1, keepdims=True)).astype(np.float32)
    train[7] = 0
    ids = rng.permutation(200)
    both = [Index(train, ids, "ip", engine="torch", threads=1, kernel=name) for name in ("float32", "cpu_int8")]
    assert both[1].kernel.name == "quantized"
    wanted, found = (index.search(train[:115], k)[0] for index in both)
    np.testing.assert_array_equal(found.ids, wanted.ids)
    np.testing.assert_array_equal(found.values, wanted.values)
