"""Rarefaction, Chao2 and coverage against exact arithmetic and planted pools."""

import json
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from side_ray.statistics.richness import (
    at_size,
    chao2,
    coverage,
    curve,
    extrapolate,
    rarefaction_variance,
    rarefy,
    richness,
)

incidences = st.integers(2, 40).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.integers(1, n), min_size=1, max_size=15))
)


@given(incidences)
def test_rarefaction_is_the_exact_hypergeometric_sum(case: tuple[int, list[int]]) -> None:
    n, hits = case
    found = rarefy(np.array(hits), n, np.arange(n + 1))
    for m in range(n + 1):
        exact = sum(1 - Fraction(comb(n - y, m), comb(n, m)) for y in hits)
        assert found[m] == pytest.approx(float(exact), abs=1e-9)


def test_rarefaction_is_the_mean_over_subsets_of_samples() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.random((200, 60)) < rng.random(60) * 0.03  # samples × training images
    counts = matrix.sum(axis=0)
    seen = [matrix[rng.choice(200, 50, replace=False)].any(axis=0).sum() for _ in range(4000)]
    assert rarefy(counts[counts > 0], 200, 50) == pytest.approx(np.mean(seen), abs=0.15)


def test_rarefaction_of_large_numbers_stays_exact() -> None:
    exact = 1 - Fraction(comb(49_998, 20_000), comb(50_000, 20_000))
    assert rarefy(np.array([2]), 50_000, 20_000) == pytest.approx(float(exact), abs=1e-9)


@given(incidences)
def test_the_curve_rises_through_the_count_towards_chao2(case: tuple[int, list[int]]) -> None:
    n, hits = case
    counts = np.array(hits)
    rows = curve(counts, n)
    values = np.array([row["distinct"] for row in rows])
    assert (np.diff(values) >= -1e-9).all()
    inside = [row for row in rows if not row["extrapolated"]]
    assert inside[-1]["m"] == n
    assert inside[-1]["distinct"] == pytest.approx(len(hits))
    assert values[-1] <= chao2(counts, n).value + 1e-9
    assert all(row["ci"][0] <= row["distinct"] <= row["ci"][1] for row in rows)


def test_rarefaction_wants_no_more_than_n() -> None:
    with pytest.raises(ValueError, match="rarefaction"):
        rarefy(np.array([1]), 10, 11)
    with pytest.raises(ValueError, match="extrapolation"):
        extrapolate(np.array([1]), 10, 9)


def test_chao2_by_hand() -> None:
    counts = np.array([1] * 6 + [2] * 3 + [5])
    estimate = chao2(counts, 20)
    assert estimate.value == pytest.approx(10 + 19 / 20 * 36 / 6)
    ratio, shrink = 2.0, 19 / 20
    assert estimate.variance == pytest.approx(
        3 * (shrink / 2 * ratio**2 + shrink**2 * ratio**3 + shrink**2 / 4 * ratio**4)
    )
    assert chao2(np.array([1, 1, 1]), 10).value == pytest.approx(3 + 0.9 * 3)
    assert chao2(np.array([4, 5]), 10).value == 2
    with pytest.raises(ValueError, match="sample"):
        chao2(np.array([1]), 0)


def planted(rates: np.ndarray, n: int, repetitions: int) -> tuple[np.ndarray, np.ndarray]:
    """Chao2 and its upper limits over repetitions."""
    rng = np.random.default_rng(3)
    draws = rng.binomial(n, rates, (repetitions, rates.size))
    estimates = [chao2(row[row > 0], n) for row in draws]
    return np.array([each.value for each in estimates]), np.array([each.ci[1] for each in estimates])


def test_chao2_finds_an_even_pool() -> None:
    values, upper = planted(np.full(200, 1.5 / 1000), 1000, 300)
    assert values.mean() == pytest.approx(200, rel=0.03)
    assert (upper >= 200).mean() >= 0.9


@pytest.mark.parametrize("steepness", [0.5, 1.0, 1.5])
def test_chao2_of_a_skewed_pool_is_a_lower_bound(steepness: float) -> None:
    weights = np.arange(1, 501) ** -steepness
    values, _ = planted(np.minimum(0.9, weights / weights.sum() * 0.6), 1000, 200)
    assert values.mean() < 500
    seen = (1 - (1 - np.minimum(0.9, weights / weights.sum() * 0.6)) ** 1000).sum()
    assert values.mean() > seen


def test_coverage_is_the_share_of_hits_on_seen_images() -> None:
    rng = np.random.default_rng(4)
    rates = 0.02 * np.arange(1, 301) ** -0.8
    estimated, true = [], []
    for _ in range(200):
        counts = rng.binomial(500, rates)
        estimated.append(coverage(counts[counts > 0], 500))
        true.append(rates[counts > 0].sum() / rates.sum())
    assert np.mean(estimated) == pytest.approx(np.mean(true), abs=0.01)
    assert coverage(np.array([3, 4]), 10) == 1
    assert coverage(np.empty(0, np.int64), 10) == 0


def test_extrapolation_and_its_variance_are_right_for_an_even_pool() -> None:
    rng = np.random.default_rng(5)
    rates, n = np.full(150, 1.0 / 400), 400
    truth = (1 - (1 - rates) ** (2 * n)).sum()
    means, variances = [], []
    for _ in range(400):
        counts = rng.binomial(n, rates)
        mean, variance = extrapolate(counts[counts > 0], n, 2 * n)
        means.append(mean)
        variances.append(variance)
    assert np.mean(means) == pytest.approx(truth, rel=0.03)
    assert np.sqrt(np.mean(variances)) == pytest.approx(np.std(means), rel=0.25)


def test_rarefaction_variance_matches_repetitions() -> None:
    rng = np.random.default_rng(6)
    rates, n = np.full(200, 1.0 / 500), 500
    at, variances = [], []
    for _ in range(400):
        counts = rng.binomial(n, rates)
        seen = counts[counts > 0]
        at.append(float(rarefy(seen, n, 250)))
        variances.append(float(rarefaction_variance(seen, n, 250)))
    assert np.sqrt(np.mean(variances)) == pytest.approx(np.std(at), rel=0.2)


def test_conditions_of_different_size_are_compared_at_one() -> None:
    rng = np.random.default_rng(7)
    rates = np.full(300, 1 / 500)
    small, large = rng.binomial(500, rates), rng.binomial(2000, rates)
    a, b = at_size(small[small > 0], 500, 500), at_size(large[large > 0], 2000, 500)
    assert a["distinct"] == pytest.approx((small > 0).sum())
    assert abs(a["ums"] - b["ums"]) < 0.05
    assert (large > 0).sum() / 2000 < 0.7 * a["ums"]
    assert b["ums_ci"][0] < b["ums"] < b["ums_ci"][1]


@pytest.mark.parametrize("counts", [[], [1], [1, 1, 2], [7, 9]])
def test_the_summary_is_json_at_every_size(counts: list[int]) -> None:
    summary = richness(np.array(counts, np.int64), 10)
    assert json.loads(json.dumps(summary, allow_nan=False))["distinct"] == len(counts)
