"""Products of panels, and the selection of entries."""

import numpy as np
import pytest

pytest.importorskip("numba")

from side_ray.search.cpu_int8 import tiles
from side_ray.search.cpu_int8.memory import panels_of_queries, panels_of_train, select


@pytest.mark.parametrize(
    ("q", "t", "d"), [(1, 1, 1), (7, 47, 3), (8, 48, 4), (9, 49, 5), (70, 200, 130), (3, 97, 3072)]
)
def test_panels_are_multiplied_exactly(q: int, t: int, d: int) -> None:
    rng = np.random.default_rng(3)
    a, b = (rng.integers(-128, 128, (size, d), np.int8) for size in (q, t))
    a[0], b[0], a[-1], b[-1] = -128, -128, 127, 127
    out = np.full((q, t), 7, np.int32)
    tiles.multiply(*panels_of_queries(a), panels_of_train(b), t, out)
    np.testing.assert_array_equal(out, a.astype(np.int64) @ b.astype(np.int64).T)


def take_scores(scores: np.ndarray, selection: tiles.Selection, step: int) -> None:
    """Take float32 scores [q, n] of whole numbers in, as products of queries that are unit vectors of n values."""
    rows = scores.shape[0]
    queries = panels_of_queries(np.eye(rows, dtype=np.int8))
    ones, strip = np.ones(rows, np.float32), np.empty((2, step), np.int32)
    for start in range(0, scores.shape[1], step):
        part = scores[:, start : start + step].T
        scales = np.ones(len(part), np.float32)
        tiles.take_quantized(*queries, panels_of_train(part.astype(np.int8)), ones, scales, strip, start, selection)


@pytest.mark.parametrize("step", [150, 37, 600])
def test_a_true_neighbour_is_never_dropped(step: int) -> None:
    """The worst case that the bound allows: errors as large as ε and the slack together, for and against."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        epsilon, slack = rng.uniform(0, 4, 3), rng.uniform(0, 6, 600).astype(np.float32)
        tile = rng.normal(0, 30, (3, 600)).round().clip(-127, 127)
        true = tile + np.where(rng.random(tile.shape) < 0.5, 1, -1) * (epsilon[:, None] + slack) * (1 - 1e-5)
        selection = select(epsilon, slack, 10, 600)
        take_scores(tile, selection, step)
        assert not selection.lost.any()
        everything = np.full(3, -np.inf, np.float32)
        count, columns, scores = tiles.promising(selection)
        others, more, _ = tiles.entries(selection, everything, selection.floor)
        assert (count >= 10).all()
        assert (count + others < 400).all()
        np.testing.assert_array_equal(scores, tile[np.repeat(np.arange(3), count), columns])
        first, second = np.split(columns, np.cumsum(count)[:-1]), np.split(more, np.cumsum(others)[:-1])
        for row, wanted in enumerate(np.argsort(-true, axis=1)[:, :10]):
            assert not set(first[row]) & set(second[row])
            assert set(wanted) <= set(first[row]) | set(second[row])


def test_a_query_with_too_many_entries_is_lost_and_the_others_are_not() -> None:
    tile = np.random.default_rng(1).integers(-127, 127, (3, 900)).astype(np.float64)
    tile[1] = 100
    selection = select(np.zeros(3), np.zeros(900, np.float32), 5, 100)
    take_scores(tile, selection, 300)
    assert selection.lost.tolist() == [False, True, False]
    count, columns, _ = tiles.promising(selection._replace(taken=np.where(selection.lost, 0, selection.taken)))
    found = np.split(columns, np.cumsum(count)[:-1])
    for row in (0, 2):
        assert set(np.flatnonzero(tile[row] > np.sort(tile[row])[-5])) <= set(found[row])


@pytest.mark.parametrize("classes", [1, 2, 10, 16, 100])
def test_images_that_come_in_turns_do_not_crowd_the_entries(classes: int) -> None:
    """All neighbours of a query are of its class, one image in so many, and still fall into many lanes."""
    rng = np.random.default_rng(2)
    n, k = 20_000, 50
    tile = rng.normal(0, 20, (2, n)).round().clip(-60, 60)
    tile[:, 3 % classes :: classes] += 67
    selection = select(np.zeros(2), np.zeros(n, np.float32), k, 16 * k + 1024)
    take_scores(tile, selection, 4032)
    count, columns, _ = tiles.promising(selection)
    assert not selection.lost.any()
    best = np.sort(tile[0])[-k]
    assert set(np.flatnonzero(tile[0] > best)) <= set(columns[: count[0]])
