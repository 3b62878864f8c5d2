"""The search on a device equals a float64 brute force, whatever its precision and however it is cut; on CUDA by `make gpu`."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from side_ray.search import Index, Levels, Neighbors, normalize
from side_ray.search import exact as numpy_exact
from side_ray.search.device import arranged, make, pairs, selection
from side_ray.search.device.kernel import DeviceKernel
from side_ray.search.device.products import multiply
from side_ray.search.float32 import full_precision

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")],
    ),
]
SIMILAR = Levels(np.array([0.3, 0.5, 0.8], np.float32), (("low",), (), ("high",)), True)
DISTANT = Levels(np.array([-10, -1.5, -1.4, -0.5], np.float32), (("low",), ("mid",), (), ("high",)), False)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(params=[False, True], ids=["whole", "cut"])
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Small blocks, tiles and lists, so that every loop runs more than once."""
    if request.param:
        monkeypatch.setattr(arranged, "COLUMNS", {"cpu": 96, "cuda": 96})
        monkeypatch.setattr(selection, "MOST_PAIRS", 6000)
        monkeypatch.setattr(DeviceKernel, "block", (29, 0))
        monkeypatch.setattr(pairs, "ELEMENTS", 4000)
    return request.param


def unit_vectors(rng: np.random.Generator, rows: int, dimension: int) -> np.ndarray:
    data = rng.standard_normal((rows, dimension))
    return (data / np.linalg.norm(data, axis=1, keepdims=True)).astype(np.float32)


def data(kind: str, n: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Training features with equal rows, and queries with exact and near copies."""
    rng = np.random.default_rng(n)
    if kind == "unit":
        train = unit_vectors(rng, n, dimension)
        train[n // 2 : n // 2 + 40] = train[0]
        noisy = train[:30] + 0.5 * unit_vectors(rng, 30, dimension)
        noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
        return train, np.concatenate([train[:20], noisy, unit_vectors(rng, 20, dimension)])
    train = rng.integers(0, 256, (n, dimension)).astype(np.float32)
    train[n // 2 : n // 2 + 40] = train[0]
    queries = np.clip(train[:70] + rng.integers(-40, 41, (70, dimension)) * (np.arange(70)[:, None] % 3), 0, 255)
    if kind == "pixels":
        return train, queries.astype(np.float32)
    scale = np.float32(3e-4 if kind == "small" else 300)
    return train * scale + np.float32(7), queries.astype(np.float32) * scale + np.float32(7)


def brute(queries: np.ndarray, train: np.ndarray, metric: str) -> np.ndarray:
    rows, columns = np.divmod(np.arange(len(queries) * len(train)), len(train))
    return numpy_exact.values_of_pairs(queries, train, rows, columns, metric).reshape(len(queries), -1)  # type: ignore[arg-type]


def build(train: np.ndarray, ids: np.ndarray, metric: str, devices: list[torch.device], precision: str | None) -> Index:
    index = Index(train, ids, metric, engine="torch", kernel="float32", threads=2)  # type: ignore[arg-type]
    index.kernel = DeviceKernel(train, ids, metric, devices, precision)  # type: ignore[arg-type]
    return index


def check(queries: np.ndarray, train: np.ndarray, metric: str, index: Index, k: int = 50) -> None:
    ids, values = index.part.ids, brute(queries, train, metric)
    order = np.lexsort((np.broadcast_to(ids, values.shape), values if metric == "l2" else -values), axis=-1)[:, :k]
    levels = SIMILAR if metric == "ip" else DISTANT
    found, counts = index.search(queries, k, levels if metric == "ip" else None)
    np.testing.assert_array_equal(found.ids, ids[order])
    np.testing.assert_array_equal(found.values, np.take_along_axis(values, order, 1))
    if metric == "l2":
        denominator = 0.5 * found.values.mean(axis=1)
        counts = index.count(queries, levels, denominator)
        values = normalize(values, denominator[:, None])
    assert counts is not None
    level = levels.assign(values)
    wanted = {}
    for number in (number for number, names in enumerate(levels.labels) if names):
        for column in np.flatnonzero((level == number).any(axis=0)):
            rows = np.flatnonzero(level[:, column] == number)
            wanted[number, int(ids[column])] = (rows.size, int(rows[0]))
    names = zip(counts.levels.tolist(), counts.train_ids.tolist(), strict=True)
    assert dict(zip(names, zip(counts.counts.tolist(), counts.first.tolist(), strict=True), strict=True)) == wanted


@pytest.mark.parametrize(
    ("kind", "precision"),
    [("unit", None), ("unit", "bf16"), ("unit", "float32"), ("pixels", None), ("pixels", "bf16"), ("small", None),
     ("large", "bf16"), ("large", "float32")],
)  # fmt: skip
@pytest.mark.parametrize("parts", [1, 3])
def test_it_equals_brute_force(device: torch.device, cut: bool, kind: str, precision: str | None, parts: int) -> None:
    train, queries = data(kind, 400, 37)
    metric = "ip" if kind == "unit" else "l2"
    ids = np.random.default_rng(1).permutation(len(train)) + 5
    index = build(train, ids, metric, [device] * parts, precision)
    assert (index.kernel.precision == "int8") == (kind == "pixels" and precision is None)  # type: ignore[attr-defined]
    check(queries, train, metric, index)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_few_and_equal_images(device: torch.device, cut: bool, metric: str) -> None:
    train = np.full((300, 4), 0.5, np.float32)
    check(train[:3], train, metric, build(train, np.arange(300)[::-1].copy(), metric, [device], None))
    check(train[:3], train[:7], metric, build(train[:7], np.arange(7), metric, [device], None), k=7)


def test_queries_between_pixels(device: torch.device) -> None:
    train, queries = data("pixels", 400, 20)
    check(queries + np.float32(0.25), train, "l2", build(train, np.arange(400), "l2", [device], None))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
@pytest.mark.parametrize("kind", ["unit", "pixels"])
def test_results_are_the_processors_to_the_last_bit(kind: str) -> None:
    """At sizes where a GPU splits its sums."""
    train, queries = data(kind, 30_000, 512 if kind == "unit" else 3072)
    metric = "ip" if kind == "unit" else "l2"
    found: list[Neighbors] = []
    for kernel in ("device", "float32"):
        index = Index(train, np.arange(30_000), metric, engine="torch", kernel=kernel)  # type: ignore[arg-type]
        found.append(index.search(queries, 50)[0])
    np.testing.assert_array_equal(found[0].ids, found[1].ids)
    np.testing.assert_array_equal(found[0].values, found[1].values)


@pytest.mark.parametrize("dimension", [1, 7, 8, 127, 128, 129, 136, 512, 700, 3072, 40_000])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_values_are_numpys_to_the_last_bit(device: torch.device, dimension: int, metric: str) -> None:
    rng = np.random.default_rng(dimension)
    queries, train = (rng.standard_normal((rows, dimension)).astype(np.float32) / dimension**0.5 for rows in (3, 20))
    rows, columns = np.divmod(np.arange(60), 20)
    wanted = numpy_exact.values_of_pairs(queries, train, rows, columns, metric)  # type: ignore[arg-type]
    there = [torch.from_numpy(array).to(device) for array in (queries, train, rows, columns)]
    found = pairs.values_of_pairs(*there, metric)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.cpu().numpy(), wanted)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "float32", "int8"])
@pytest.mark.parametrize(("scale", "offset", "dimension"), [(1e-4, 0, 64), (1, 3, 700), (1e4, -1e3, 64), (1, 0, 3072)])
def test_scores_stay_within_their_bound(
    device: torch.device, precision: str, scale: float, offset: float, dimension: int
) -> None:
    rng = np.random.default_rng(2)
    for metric in ("l2",) if precision == "int8" else ("l2", "ip"):
        if metric == "ip":
            rows = unit_vectors(rng, 80, dimension)
            rows[3] = 0
        elif precision == "int8":
            rows = rng.integers(0, 256, (80, dimension)).astype(np.float32)
        else:
            rows = (offset + scale * rng.standard_normal((80, dimension))).astype(np.float32)
        rows[40] = rows[50]
        features, queries = (torch.from_numpy(half).to(device) for half in (rows[:60], rows[40:]))
        train = arranged.arrange(features, metric, precision)  # type: ignore[arg-type]
        coded = train.encoder.encode(queries)
        with full_precision():
            scores = multiply(coded.codes, train.codes).double() * (
                (1 + (metric == "l2")) / (coded.scale * train.scale)
            )
        q, x = queries.double(), features.double()[train.order]
        true = q @ x.T
        if train.norms is not None:
            scores = (scores.to(train.encoder.score_dtype) - train.norms).double()
            true = coded.squares[:, None] - (q[:, None] - x[None]).square().sum(dim=2)
        bound = train.encoder.error(coded, train.longest, train.most_lost, metric)  # type: ignore[arg-type]
        error = (scores - true).abs().amax(dim=1)
        assert (error <= bound + 1e-9 * (precision == "int8") * bound.new_ones(())).all()
        if precision == "float32":
            assert (bound <= 2e-3 * true.abs().amax() + 1e-30).all()
        elif precision in ("fp16", "bf16") and metric == "ip":
            assert (bound <= {"fp16": 0.002, "bf16": 0.01}[precision]).all()


def test_it_is_taken_on_a_gpu_for_many_features_only(monkeypatch: pytest.MonkeyPatch) -> None:
    train = np.zeros((3000, 2000), np.float32)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert make(train, np.arange(3000), "l2", 1, False) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert make(train[:30], np.arange(30), "l2", 1, False) is None
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**20, 2**33))
    assert make(train, np.arange(3000), "l2", 1, False) is None, "no room"
