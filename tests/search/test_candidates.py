"""No true neighbour is ever dropped."""

import numpy as np
import pytest

from side_ray.search.candidates import Candidates


def take_all(top: Candidates, tile: np.ndarray, step: int) -> list[set[int]]:
    for start in range(0, tile.shape[1], step):
        part = np.ascontiguousarray(tile[:, start : start + step])
        top.take(part, start, np.empty(part.shape, bool))
    pairs = top.result()
    return [set(pairs.columns[pairs.rows == row].tolist()) for row in range(len(tile))]


@pytest.mark.parametrize("step", [150, 7, 600])
@pytest.mark.parametrize("ascending", [False, True])
def test_a_true_neighbour_is_never_dropped(step: int, ascending: bool) -> None:
    """The worst case that the bound allows: every error as large as ε, for and against."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        true = rng.normal(0.1, 0.1, (4, 600))
        if ascending:
            true.sort(axis=1)
        epsilon = rng.uniform(0, 0.02, 4)
        error = epsilon[:, None] * (1 - 1e-5)
        tile = (true + np.where(rng.random(true.shape) < 0.5, error, -error)).astype(np.float32)
        top = Candidates(epsilon, 10, 400)
        found = take_all(top, tile, step)
        assert not top.lost.any()
        for row, wanted in enumerate(np.argsort(-true, axis=1)[:, :10]):
            assert set(wanted.tolist()) <= found[row]
            assert len(found[row]) < 200


def test_a_query_with_too_many_candidates_is_lost_and_the_others_are_not() -> None:
    tile = np.random.default_rng(1).random((3, 500)).astype(np.float32)
    tile[1] = 1.0
    top = Candidates(np.zeros(3), 5, 40)
    found = take_all(top, tile, 100)
    assert top.lost.tolist() == [False, True, False]
    assert not found[1]
    for row in (0, 2):
        assert set(np.argsort(-tile[row])[:5].tolist()) <= found[row]
