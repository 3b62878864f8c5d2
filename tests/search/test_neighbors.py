"""Results of parts are merged exactly."""

import numpy as np

from side_ray.search import Counts, Levels, Neighbors, merge, normalize


def test_merging_parts_orders_by_value_and_then_by_id() -> None:
    parts = [
        Neighbors(np.array([[7, 2]]), np.array([[0.5, 1.0]])),
        Neighbors(np.array([[3]]), np.array([[0.5]])),
        Neighbors(np.array([[9, 1]]), np.array([[1.0, 1.0]])),
    ]
    for order in ([0, 1, 2], [2, 1, 0]):
        assert merge([parts[i] for i in order], 4, "l2").ids.tolist() == [[3, 7, 1, 2]]
        assert merge([parts[i] for i in order], 3, "ip").ids.tolist() == [[1, 2, 9]]


def test_merging_counts_adds_them_and_keeps_the_first_query() -> None:
    parts = [
        Counts.of_pairs(np.array([1, 0, 1]), np.array([5, 5, 5]), np.array([4, 3, 6])),
        Counts.of_pairs(np.array([1]), np.array([5]), np.array([2])),
    ]
    merged = Counts.merge(parts)
    found = zip(merged.levels, merged.train_ids, merged.counts, merged.first, strict=True)
    assert [tuple(map(int, each)) for each in found] == [(0, 5, 1, 3), (1, 5, 3, 2)]
    assert Counts.merge([]).levels.size == 0


def test_a_copy_is_at_distance_zero_even_where_the_denominator_is_zero() -> None:
    assert normalize(np.array([0.0, 3.0]), np.array([0.0, 2.0])).tolist() == [0.0, 1.5]


def test_an_edge_belongs_to_the_closer_level_and_nan_to_none() -> None:
    levels = Levels(np.array([0.25, 0.5], np.float32), (("low",), ("high",)), True)
    assert levels.assign(np.array([0.2, 0.25, 0.5, 9, np.nan])).tolist() == [-1, 0, 1, 1, -1]
    distances = Levels(np.array([-2.0, -1.0], np.float32), (("low",), ("high",)), False)
    assert distances.assign(np.array([2.5, 2.0, 1.0, 0.0])).tolist() == [-1, 0, 1, 1]
    assert distances.reaches_beyond(2.0)
    assert not distances.reaches_beyond(2.1)
