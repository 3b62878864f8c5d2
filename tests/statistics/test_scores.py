"""Scores of a condition against counting by hand."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from side_ray.search import Counts
from side_ray.similarity.nl2 import Nl2
from side_ray.statistics.bands import Bands
from side_ray.statistics.cut import calibrated_cut
from side_ray.statistics.hits import band_hits
from side_ray.statistics.scores import (
    ConditionScores,
    compare,
    condition_metrics,
    diffmemorize,
    percentile_95,
    reaches,
    top_mean,
)

GRID = np.round(np.linspace(1.0, 2.0, 41), 3).astype(np.float32)


def condition(values: np.ndarray, holdout: np.ndarray, bands: Bands, cut: Any) -> ConditionScores:
    """Scores of samples whose nL2-like values [N, M] to every training image are known."""
    levels = bands.levels(None if cut is None else cut.value)
    level = levels.assign(values)
    rows, columns = np.nonzero(level >= 0)
    hits = band_hits(Counts.of_pairs(level[rows, columns], columns, rows), levels, np.arange(len(values)))
    ordered = np.sort(values, axis=1)
    return ConditionScores(ordered[:, 0], values.argmin(axis=1), hits, holdout.min(axis=1), ordered[:, 1])


def setup(seed: int, preset: str) -> tuple[np.ndarray, np.ndarray, Bands, Any, dict[str, Any]]:
    rng = np.random.default_rng(seed)
    values, holdout = rng.choice(GRID, (60, 15)), rng.choice(GRID[8:], (60, 15))
    bands = Bands.make(preset, Nl2)
    cut = calibrated_cut(rng.choice(GRID[4:], 400), 0.01, larger_is_closer=False)
    metrics = condition_metrics(condition(values, holdout, bands, cut), bands, cut, train_size=15)
    return values, holdout, bands, cut, metrics


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["cumulative", "paper"]))
def test_every_number_equals_counting_by_hand(seed: int, preset: str) -> None:
    values, holdout, bands, cut, metrics = setup(seed, preset)
    best = values.min(axis=1)
    edges = bands.resolve()["bands"]
    entries = [(metrics["bands"][name], [name]) for name in bands.names]
    entries += [(metrics["cumulative"][name], bands.within(name)) for name in bands.names]
    for entry, names in entries:

        def inside(v: np.ndarray, names: list[str] = names) -> np.ndarray:
            found = np.zeros(v.shape, bool)
            for name in names:
                low, high = (np.float32(edge) if edge is not None else None for edge in edges[name])
                above = v > low if low is not None and name != "high" else (v >= low if low is not None else True)
                found |= above & (v <= high)
            return found

        assert entry["ams_count"] == inside(best).sum()
        assert entry["ams"] == entry["ams_count"] / 60
        assert entry["ums_count"] == inside(values).any(axis=0).sum()
        assert entry["ums"] == entry["ums_count"] / 60
        assert entry["ums_best_count"] == len(set(values.argmin(axis=1)[inside(best)]))
        assert entry["holdout_count"] == inside(holdout.min(axis=1)).sum()
        for key in ("ams", "ums", "ums_best"):
            assert entry[f"{key}_ci"][0] <= entry[key] <= entry[f"{key}_ci"][1]
        assert entry["ums_best_count"] <= entry["ums_count"]
    calibrated = metrics["calibrated"]
    assert calibrated["ams_count"] == (best <= np.float32(cut.value)).sum()
    assert calibrated["ums_count"] == (values <= np.float32(cut.value)).any(axis=0).sum()
    assert calibrated["holdout_count"] == (holdout.min(axis=1) <= np.float32(cut.value)).sum()


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["cumulative", "paper"]))
def test_banded_ams_partitions_and_ums_is_a_union(seed: int, preset: str) -> None:
    _, _, bands, _, metrics = setup(seed, preset)
    for name in bands.names:
        within = [metrics["bands"][each] for each in bands.within(name)]
        cumulative = metrics["cumulative"][name]
        assert cumulative["ams_count"] == sum(each["ams_count"] for each in within)
        assert cumulative["holdout_count"] == sum(each["holdout_count"] for each in within)
        assert (
            max(each["ums_count"] for each in within)
            <= cumulative["ums_count"]
            <= sum(each["ums_count"] for each in within)
        )


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.data())
def test_the_order_of_samples_does_not_matter(seed: int, data: st.DataObject) -> None:
    values, holdout, bands, cut, metrics = setup(seed, "cumulative")
    order = np.array(data.draw(st.permutations(range(60))))
    again = condition_metrics(condition(values[order], holdout[order], bands, cut), bands, cut, train_size=15)
    assert again == metrics


def test_metrics_are_json_and_complete() -> None:
    *_, metrics = setup(0, "cumulative")
    entry = json.loads(json.dumps(metrics, allow_nan=False))["calibrated"]
    names = {
        "ams",
        "ams_count",
        "ams_ci",
        "ums",
        "ums_count",
        "ums_ci",
        "ums_best",
        "ums_best_count",
        "holdout_ams",
        "holdout_count",
    }
    assert names <= set(entry)
    assert set(metrics["top_mean"]) == {"0.01", "0.05", "0.1", "0.5", "1", "5", "10"}
    assert {"bands", "cumulative", "calibrated", "top_mean", "percentile_95", "diffmemorize", "richness", "n"} <= set(
        metrics
    )


def test_without_cut_or_holdout() -> None:
    values = np.random.default_rng(1).choice(GRID, (20, 6))
    bands = Bands.make(None, Nl2)
    full = condition(values, values, bands, None)
    metrics = condition_metrics(ConditionScores(full.best, full.best_id, full.hits), bands)
    assert metrics["calibrated"] is None
    assert metrics["diffmemorize"] is None
    assert metrics["bands"]["low"]["holdout_count"] is None
    assert metrics["bands"]["low"]["lift"] is None
    json.dumps(metrics, allow_nan=False)


def test_lift_and_its_interval() -> None:
    best = np.r_[np.full(40, 1.0), np.full(960, 3.0)].astype(np.float32)
    holdout = np.r_[np.full(2, 1.0), np.full(998, 3.0)].astype(np.float32)
    bands = Bands.make(None, Nl2)
    entry = condition_metrics(ConditionScores(best, np.arange(1000), {}, holdout), bands)["cumulative"]["low"]
    assert entry["lift"] == 20
    assert entry["lift_ci"][0] < 20 < entry["lift_ci"][1]
    none = condition_metrics(ConditionScores(best, np.arange(1000), {}, holdout + 3), bands)["cumulative"]["low"]
    assert none["lift"] is None
    assert none["lift_ci"][1] is None
    assert none["lift_ci"][0] > 1


@pytest.mark.parametrize("larger", [True, False])
def test_top_mean_and_percentile_point_towards_closeness(larger: bool) -> None:
    best = np.arange(1, 1001, dtype=np.float32)
    if larger:
        assert top_mean(best, "1", True) == (pytest.approx(995.5), 10)
        assert percentile_95(best, True) == pytest.approx(np.percentile(best, 95))
    else:
        assert top_mean(best, "1", False) == (pytest.approx(5.5), 10)
        assert percentile_95(best, False) == pytest.approx(np.percentile(best, 5))


def test_top_mean_counts() -> None:
    assert top_mean(np.zeros(50_000, np.float32), "0.01", True)[1] == 5
    assert top_mean(np.zeros(50_000, np.float32), "0.05", True)[1] == 25
    assert top_mean(np.zeros(2000, np.float32), "0.01", True)[1] == 1


def test_diffmemorize_is_a_strict_third() -> None:
    nearest = np.array([0.9, 1.0, 1.1, 0.0, 0.0], np.float32)
    second = np.array([3.0, 3.0, 3.0, 0.0, 0.1], np.float32)
    assert diffmemorize(nearest, second)["count"] == 2


def test_compare_pairs_by_sample_id() -> None:
    cut = calibrated_cut(np.array([1.0], np.float32), larger_is_closer=False)
    a = ConditionScores(np.array([0.5, 0.5, 2.0, 0.5], np.float32), np.arange(4), {})
    b = ConditionScores(np.array([2.0, 0.5, 2.0], np.float32), np.arange(3), {})
    result = compare(a, np.array([10, 11, 12, 13]), b, np.array([13, 11, 12]), cut, False)
    assert (result.both, result.only_a, result.only_b, result.neither) == (1, 1, 0, 1)


def test_reaching_the_cut_exactly_counts() -> None:
    cut = calibrated_cut(np.array([0.7], np.float32), larger_is_closer=True)
    assert reaches(
        np.array([0.7, np.nextafter(np.float32(0.7), np.float32(0)), 0.8], np.float32), cut, True
    ).tolist() == [1, 0, 1]
