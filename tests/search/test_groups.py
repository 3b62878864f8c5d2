"""Rows that show one image, and queries in several versions: equal to a float64 brute force, whatever finds it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from side_ray.search import Counts, Index, merge, normalize
from side_ray.search import groups as groups_module
from tests.search.test_index import (
    PAPER,
    SSCD,
    WAYS,
    assert_counts,
    brute_neighbors,
    brute_values,
    pixels,
    unit_vectors,
)


def image_values(queries: np.ndarray, train: np.ndarray, ids: np.ndarray, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids int64 [m], ascending, and values [Q, m]: of the closest row of an image to the closest version of a query."""
    versions = queries if queries.ndim == 3 else queries[None]
    values = np.stack([brute_values(each, train, metric) for each in versions])
    best = values.min(0) if metric == "l2" else values.max(0)
    images = np.unique(ids)
    reduce = np.min if metric == "l2" else np.max
    return images, np.stack([reduce(best[:, ids == image], axis=1) for image in images], axis=1)


def assert_same(queries: np.ndarray, train: np.ndarray, ids: np.ndarray, metric: str, k: int, shards, way) -> None:
    images, values = image_values(queries, train, ids, metric)
    wanted = brute_neighbors(values, images, k, metric)
    parts = [Index(train[rows], ids[rows], metric, threads=2, **way) for rows in shards if rows.size]
    levels = SSCD if metric == "ip" else None
    answers = [part.search(queries, k, levels) for part in parts]
    found = merge([answer[0] for answer in answers], k, metric)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.ids, wanted.ids)
    np.testing.assert_allclose(found.values, wanted.values, rtol=1e-14, atol=1e-15)
    if metric == "ip":
        assert_counts(Counts.merge([answer[1] for answer in answers]), values, images, SSCD)  # type: ignore[misc]
        return
    denominator = 0.5 * wanted.values[:, :50].mean(axis=1)
    counts = Counts.merge([part.count(queries, PAPER, denominator) for part in parts])
    assert_counts(counts, normalize(values, denominator[:, None]), images, PAPER)


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("versions", [1, 2])
def test_large_groups_and_single_images(metric: str, versions: int, way: dict[str, str]) -> None:
    make = pixels if metric == "l2" else unit_vectors
    train, rng = make(0, 900, 24), np.random.default_rng(1)
    ids = rng.permutation(900)
    ids[:60] = ids[0]  # more rows of one image than are listed at first
    train[:60] = train[0]
    ids[100:104], ids[200:202] = ids[100], ids[200]
    queries = np.stack([make(seed, 30, 24) for seed in range(2, 2 + versions)])
    queries[0, :4] = train[[0, 5, 101, 200]]
    queries[-1, 7] = train[103]
    queries = queries if versions > 1 else queries[0]
    shards = [np.flatnonzero(ids % 3 == part) for part in range(3)]
    assert_same(queries, train, ids, metric, 50, shards, way)
    assert_same(queries, train, ids, metric, 2000, [np.arange(900)], way)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["l2", "ip"]), st.sampled_from(WAYS[:2]), st.integers(1, 3))
@pytest.mark.long
def test_equal_values_and_small_lists(seed: int, metric: str, way: dict[str, str], versions: int) -> None:
    rng = np.random.default_rng(seed)
    n, total, k = int(rng.integers(5, 60)), int(rng.integers(1, 12)), int(rng.integers(1, 9))
    train = pixels(seed, n, 3, distinct=4) if metric == "l2" else unit_vectors(seed, n, 3)[rng.integers(0, n, n)]
    ids = rng.integers(0, max(2, n // int(rng.integers(1, 5))), n)
    queries = np.stack([train[rng.integers(0, n, total)] for _ in range(versions)])
    cut = int(rng.integers(0, ids.max() + 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups_module, "SPARE", 1)
        patch.setattr(groups_module, "LISTED", int(rng.integers(1, 200)))
        shards = [np.flatnonzero(ids < cut), np.flatnonzero(ids >= cut)]
        assert_same(queries if versions > 1 else queries[0], train, ids, metric, k, shards, way)


def test_images_that_share_no_id_are_searched_as_before() -> None:
    train, ids = pixels(3, 300, 8), np.random.default_rng(0).permutation(300)
    built = Index(train, ids, "l2", engine="torch")
    assert built.shared is None
    assert built.part.features is train


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_all_images_within_a_radius(way: dict[str, str]) -> None:
    train = pixels(4, 400, 6, distinct=5)
    index = Index(train, np.arange(400) + 5, "l2", **way)  # type: ignore[arg-type]
    values = brute_values(train[:50], train, "l2")
    radius = np.random.default_rng(0).choice(np.unique(values)[:40], 50)
    rows, ids, distances = index.within(train[:50], radius)
    wanted = np.argwhere(values <= radius[:, None])
    assert sorted(zip(rows.tolist(), (ids - 5).tolist(), strict=True)) == [tuple(pair) for pair in wanted.tolist()]
    np.testing.assert_allclose(distances, values[rows, ids - 5], rtol=1e-14)
