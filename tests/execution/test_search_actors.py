"""Search actors leave a GPU to the scorers."""

import pytest

from side_ray.execution.search_actors import reserved


@pytest.mark.parametrize(
    ("gpus", "parts", "nodes", "expected"),
    [
        (1, 2, [1], 0),
        (1, 2, [2], 0),
        (1, 2, [2, 1], 1),
        (0.5, 2, [1], 0),
        (0.5, 2, [1, 1], 0.5),
        (0.6, 2, [2], 0),
        (2, 2, [3, 3], 0),
        (2, 2, [4, 2], 2),
        (0, 2, [8], 0),
    ],
)
def test_search_actors_reserve_gpus_only_if_a_scorer_still_fits(gpus, parts, nodes, expected):
    assert reserved(gpus, parts, nodes) == expected
