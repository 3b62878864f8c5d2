"""The search equals a float64 brute force, ids, values and counts, ties included, whatever finds it and however it is cut."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from side_ray.search import Counts, Index, Levels, Neighbors, merge, normalize
from side_ray.search import index as index_module
from side_ray.search.float32 import Float32Kernel
from side_ray.similarity.nl2 import Nl2
from side_ray.similarity.sscd import Sscd
from side_ray.statistics.bands import Bands

WAYS = [
    {"engine": "torch", "kernel": "float32"},
    {"engine": "torch", "kernel": "cpu_int8"},
    {"engine": "torch", "kernel": "device"},
    {"engine": "faiss"},
]
SSCD = Bands.make(None, Sscd).levels(0.45)
PAPER = Bands.make("paper", Nl2).levels(1.45)


def index(features: np.ndarray, ids: np.ndarray, metric: str, way: dict[str, str]) -> Index:
    return Index(features, ids, metric, threads=2, **way)  # type: ignore[arg-type]


def brute_values(queries: np.ndarray, train: np.ndarray, metric: str) -> np.ndarray:
    q, x = queries.astype(np.float64), train.astype(np.float64)
    if metric == "ip":
        return np.clip((q[:, None] * x[None]).sum(axis=2), -1, 1)
    return np.sqrt(((q[:, None] - x[None]) ** 2).sum(axis=2))


def brute_neighbors(values: np.ndarray, ids: np.ndarray, k: int, metric: str) -> Neighbors:
    rows = [sorted(zip(row if metric == "l2" else -row, ids, range(len(ids)), strict=True))[:k] for row in values]
    columns = np.array([[each[2] for each in row] for row in rows])
    return Neighbors(ids[columns], np.take_along_axis(values, columns, 1))


def assert_counts(found: Counts, values: np.ndarray, ids: np.ndarray, levels: Levels) -> None:
    level = levels.assign(values)
    wanted = {}
    for number, names in enumerate(levels.labels):
        for column in np.flatnonzero((level == number).any(axis=0)) if names else []:
            rows = np.flatnonzero(level[:, column] == number)
            wanted[number, int(ids[column])] = (rows.size, int(rows[0]))
    keys = zip(found.levels.tolist(), found.train_ids.tolist(), strict=True)
    assert dict(zip(keys, zip(found.counts.tolist(), found.first.tolist(), strict=True), strict=True)) == wanted
    assert found.levels.size == len(wanted)


def assert_search(
    queries: np.ndarray, train: np.ndarray, ids: np.ndarray, metric: str, k: int, way: dict[str, str]
) -> None:
    built = index(train, ids, metric, way)
    values = brute_values(queries, train, metric)
    wanted = brute_neighbors(values, ids, k, metric)
    found, counts = built.search(queries, k, SSCD if metric == "ip" else None)
    np.testing.assert_array_equal(found.ids, wanted.ids)
    np.testing.assert_allclose(found.values, wanted.values, rtol=1e-14, atol=1e-15)
    if counts is not None:
        assert_counts(counts, values, ids, SSCD)
        assert_counts(built.count(queries, SSCD), values, ids, SSCD)
    else:
        denominator = 0.5 * wanted.values[:, :50].mean(axis=1)
        assert_counts(built.count(queries, PAPER, denominator), normalize(values, denominator[:, None]), ids, PAPER)


def pixels(seed: int, rows: int, dimension: int, distinct: int = 256) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.choice(rng.integers(0, 256, distinct), (rows, dimension)).astype(np.float32)


def unit_vectors(seed: int, rows: int, dimension: int) -> np.ndarray:
    data = np.random.default_rng(seed).standard_normal((rows, dimension))
    return (data / np.linalg.norm(data, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize(("n", "dimension"), [(30, 5), (400, 12), (3000, 40)])
def test_distances_of_pixels(n: int, dimension: int, way: dict[str, str]) -> None:
    train = pixels(0, n, dimension)
    train[n // 2 : n // 2 + 10] = train[:10]  # duplicates: ties at every distance
    noise = np.random.default_rng(1).integers(-30, 31, (90, dimension))
    queries = np.clip(train[np.arange(90) % n] + noise * (np.arange(90)[:, None] % 3), 0, 255).astype(np.float32)
    assert_search(queries, train, np.random.default_rng(2).permutation(n) + 7, "l2", 50, way)


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (1e-3, 5), (1e4, -1e4)])
def test_distances_of_any_features(scale: float, offset: float, way: dict[str, str]) -> None:
    rng = np.random.default_rng(3)
    train = (offset + scale * rng.standard_normal((700, 9))).astype(np.float32)
    queries = (train[:60] + scale * 0.3 * rng.standard_normal((60, 9))).astype(np.float32)
    queries[:10] = train[:10]
    assert_search(queries, train, np.arange(700), "l2", 50, way)


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize(("n", "dimension"), [(30, 5), (400, 8), (3000, 32)])
def test_inner_products(n: int, dimension: int, way: dict[str, str]) -> None:
    train = unit_vectors(4, n, dimension)
    train[n // 2 : n // 2 + 10] = train[:10]
    queries = np.concatenate([train[:20], unit_vectors(5, 60, dimension), -train[:10]])
    assert_search(queries, train, np.random.default_rng(6).permutation(n), "ip", 50, way)


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_a_training_set_of_equal_images_is_ordered_by_id(metric: str, way: dict[str, str]) -> None:
    train = np.full((600, 4), 0.5, np.float32)
    ids = np.random.default_rng(7).permutation(600)
    assert_search(train[:3], train, ids, metric, 50, way)


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_neighbours_that_float32_products_cannot_tell_apart(metric: str, way: dict[str, str]) -> None:
    """More images within the error of a product than candidates are kept at first: the search widens until all are in."""
    rng = np.random.default_rng(8)
    center = unit_vectors(9, 1, 64)
    near = center + 1e-6 * rng.standard_normal((1300, 64))
    train = np.concatenate([near / np.linalg.norm(near, axis=1, keepdims=True), unit_vectors(10, 300, 64)])
    assert_search(center, train.astype(np.float32), rng.permutation(1600), metric, 2, way)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_counts_where_most_pairs_are_in_a_band(way: dict[str, str]) -> None:
    """Many lie right at an edge of it."""
    train, queries = unit_vectors(11, 300, 6), unit_vectors(12, 80, 6)
    levels = Bands.make({"low": [-0.5, 0.0], "mid": [0.0, 0.3], "high": [0.3, 1.0]}, Sscd).levels()
    values = brute_values(queries, train, "ip")
    built = index(train, np.arange(300), "ip", way)
    assert_counts(built.count(queries, levels), values, np.arange(300), levels)
    counts = built.search(queries, 5, levels)[1]
    assert counts is not None
    assert_counts(counts, values, np.arange(300), levels)


def test_values_at_an_edge_are_decided_exactly() -> None:
    """Cosines equal to an edge to the last bit, and one float32 step beside it."""
    edge = np.float32(0.6)
    steps = [edge, np.nextafter(edge, np.float32(0)), np.nextafter(edge, np.float32(1))]
    train = np.array([[value, 0.0] for value in steps] * 20, np.float32)
    queries = np.array([[1.0, 0.0]], np.float32)
    for way in WAYS:
        _, counts = index(train, np.arange(60), "ip", way).search(queries, 3, SSCD)
        assert counts is not None
        high = SSCD.named("high")[counts.levels]
        assert set(counts.train_ids[high]) == {i for i in range(60) if steps[i % 3] >= edge}


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["l2", "ip"]),
    st.sampled_from(WAYS[:2]),
    st.tuples(st.integers(1, 9), st.integers(1, 30)),
    st.data(),
)
@pytest.mark.long
def test_shards_batches_tiles_and_order_change_nothing(
    seed: int, metric: str, way: dict[str, str], tile: tuple[int, int], data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    n, total, k = int(rng.integers(10, 70)), int(rng.integers(1, 25)), int(rng.integers(1, 12))
    # Few distinct values: equal distances and equal images abound.
    train = pixels(seed, n, 3, distinct=4) if metric == "l2" else unit_vectors(seed, n, 3)
    queries = pixels(seed + 1, total, 3, distinct=4) if metric == "l2" else train[rng.integers(0, n, total)]
    values = brute_values(queries, train, metric)
    wanted = brute_neighbors(values, np.arange(n), k, metric)
    shards = np.split(
        np.array(data.draw(st.permutations(range(n)))), sorted(data.draw(st.lists(st.integers(0, n), max_size=3)))
    )
    batches = np.split(np.arange(total), sorted(data.draw(st.lists(st.integers(0, total), max_size=3))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Float32Kernel, "block", tile)
        parts = [index(train[shard], shard, metric, way) for shard in shards if shard.size]
        for batch in batches:
            answers = [part.search(queries[batch], k, SSCD if metric == "ip" else None) for part in parts]
            found = merge([answer[0] for answer in answers], k, metric)  # type: ignore[arg-type]
            np.testing.assert_array_equal(found.ids, wanted.ids[batch])
            np.testing.assert_allclose(found.values, wanted.values[batch], rtol=1e-14, atol=1e-15)
            if metric == "ip" and batch.size:
                counts = Counts.merge([answer[1] for answer in answers if answer[1] is not None])
                assert_counts(counts, values[batch], np.arange(n), SSCD)


def test_values_are_the_same_to_the_last_bit_however_they_are_found() -> None:
    train, queries = unit_vectors(13, 500, 700), unit_vectors(14, 12, 700)
    queries[:6] = train[:6] * np.float32(0.99)
    whole, _ = index(train, np.arange(500), "ip", WAYS[0]).search(queries, 50)
    for way in WAYS:
        parts = []
        for rows in np.array_split(np.arange(500), 4):
            part = index(train[rows], rows, "ip", way)
            batches = [part.search(queries[i : i + 5], 50)[0] for i in range(0, 12, 5)]
            parts.append(
                Neighbors(*(np.concatenate([getattr(b, name) for b in batches]) for name in ("ids", "values")))
            )
        found = merge(parts, 50, "ip")
        np.testing.assert_array_equal(found.ids, whole.ids)
        np.testing.assert_array_equal(found.values, whole.values)


def test_an_exact_copy_has_distance_zero() -> None:
    rng = np.random.default_rng(15)
    train = (1e3 + rng.standard_normal((500, 3000))).astype(np.float32)
    for way in WAYS:
        found, _ = index(train, np.arange(500), "l2", way).search(train[::7], 2)
        assert (found.values[:, 0] == 0).all()
        assert (found.values[:, 1] > 0).all()
        assert found.ids[:, 0].tolist() == list(range(0, 500, 7))


def test_an_index_that_was_asked_in_small_batches_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    built = Index(pixels(16, 100, 8), np.arange(100), "l2", engine="torch", threads=3)
    built.search(pixels(17, 5, 8), 5)
    assert torch.get_num_threads() == before


def test_no_named_level_counts_nothing() -> None:
    train = unit_vectors(18, 20, 4)
    levels = Levels(np.array([0.1], np.float32), ((),), True)
    built = Index(train, np.arange(20), "ip")
    assert built.count(train, levels).levels.size == 0
    counts = built.search(train, 3, levels)[1]
    assert counts is not None
    assert counts.levels.size == 0


def test_queries_beyond_pixels_on_an_index_of_pixels() -> None:
    train, queries = pixels(19, 200, 6), pixels(20, 30, 6) + np.float32(0.25)
    assert_search(queries, train, np.arange(200), "l2", 50, WAYS[1])


@pytest.mark.parametrize(
    ("features", "metric", "words"),
    [
        (np.zeros((3, 2)), "l2", "float32"),
        (np.zeros(3, np.float32), "l2", "float32"),
        (np.zeros((0, 2), np.float32), "l2", "at least one row"),
        (np.full((3, 2), np.nan, np.float32), "l2", "NaN"),
        (np.full((3, 2), 2, np.float32), "ip", "unit vectors"),
    ],
)
def test_bad_features(features: np.ndarray, metric: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Index(features, np.arange(len(features)), metric)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("error")
def test_read_only_memory_is_no_reason_to_warn() -> None:
    train, queries = unit_vectors(24, 50, 8), unit_vectors(25, 5, 8)
    train.setflags(write=False)
    queries.setflags(write=False)
    for way in WAYS:
        assert_search(queries, train, np.arange(50), "ip", 5, way)


def test_misuse_is_refused() -> None:
    built = Index(pixels(21, 60, 4), np.arange(60), "l2")
    with pytest.raises(ValueError, match="search first"):
        built.search(pixels(22, 2, 4), 5, PAPER)
    with pytest.raises(ValueError, match="denominator"):
        built.count(pixels(22, 2, 4), PAPER)
    with pytest.raises(ValueError, match="direction"):
        built.count(pixels(22, 2, 4), SSCD, np.ones(2))
    with pytest.raises(ValueError, match="k must"):
        built.search(pixels(22, 2, 4), 0)
    with pytest.raises(ValueError, match="features"):
        built.search(pixels(22, 2, 5), 5)


@pytest.mark.parametrize("faster", ["faiss", "torch"])
def test_auto_takes_what_the_probe_finds_faster(faster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(index_module, "_faster", lambda *_: faster)
    monkeypatch.setattr(index_module, "SMALL", 100)
    train = np.random.default_rng(23).random((60, 8), np.float32)
    assert Index(train, np.arange(60), "l2").engine == faster
    assert Index(train[:10], np.arange(10), "l2").engine == "torch"  # too few for a probe


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_nan_and_infinity_are_found_in_every_row(metric: str, value: float) -> None:
    good = np.full((5, 4), 0.5, np.float32)
    for row in range(len(good)):
        bad = good.copy()
        bad[row, 1] = value
        with pytest.raises(ValueError, match=r"NaN or infinite|normalize"):
            Index(bad, np.arange(5), metric)
        with pytest.raises(ValueError, match=r"NaN or infinite|normalize"):
            Index(good, np.arange(5), metric).search(bad, 2)
