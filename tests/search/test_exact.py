"""Values of single pairs."""

import numpy as np
import pytest

from side_ray.search.exact import values_of_pairs, write_nearest
from side_ray.search.neighbors import Neighbors


@pytest.mark.parametrize("dimension", [1, 7, 128, 129, 700, 40_000])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_a_value_depends_on_its_pair_alone(dimension: int, metric: str) -> None:
    rng = np.random.default_rng(0)
    queries, train = (rng.standard_normal((rows, dimension)).astype(np.float32) / dimension**0.5 for rows in (5, 30))
    rows, columns = np.divmod(np.arange(150), 30)
    together = values_of_pairs(queries, train, rows, columns, metric)  # type: ignore[arg-type]
    order = rng.permutation(150)
    shuffled = values_of_pairs(queries, train, rows[order], columns[order], metric)  # type: ignore[arg-type]
    np.testing.assert_array_equal(shuffled, together[order])
    q, x = queries.astype(np.float64)[rows], train.astype(np.float64)[columns]
    wanted = np.clip((q * x).sum(axis=1), -1, 1) if metric == "ip" else np.sqrt(((q - x) ** 2).sum(axis=1))
    np.testing.assert_allclose(together, wanted, rtol=1e-14, atol=1e-15)


def test_distances_of_whole_numbers_are_exact() -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (40, 3072)).astype(np.float32)
    rows, columns = np.divmod(np.arange(400), 40)
    squares = ((pixels[rows].astype(np.int64) - pixels[columns].astype(np.int64)) ** 2).sum(axis=1)
    np.testing.assert_array_equal(values_of_pairs(pixels, pixels, rows, columns, "l2"), np.sqrt(squares))


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_equal_values_are_ordered_by_id_and_pairs_may_come_in_any_order(metric: str) -> None:
    rng = np.random.default_rng(2)
    rows = rng.permutation(np.repeat(np.arange(300), 9))
    values, ids = rng.integers(0, 3, rows.size) / 2, rng.permutation(rows.size)
    found = Neighbors(np.empty((300, 4), np.int64), np.empty((300, 4)))
    write_nearest(found, rows, values, ids, metric)  # type: ignore[arg-type]
    for row in range(300):
        keys = sorted(
            ((value if metric == "l2" else -value), name)
            for value, name in zip(values[rows == row], ids[rows == row], strict=True)
        )[:4]
        assert found.ids[row].tolist() == [name for _, name in keys]
