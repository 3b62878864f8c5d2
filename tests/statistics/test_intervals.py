"""Intervals cover what they should, and the paired test is the textbook's."""

import numpy as np
import pytest
from scipy import stats

from side_ray.statistics.intervals import clopper_pearson, distinct_interval, mcnemar, mid_p_limits, poisson_limits


@pytest.mark.parametrize(
    ("n", "p"), [(1000, 0.005), (1000, 0.0051), (2000, 0.05), (50, 0.2), (10_000, 0.0005), (400, 0.98)]
)
def test_clopper_pearson_covers_exactly(n: int, p: float) -> None:
    counts = np.flatnonzero(stats.binom.pmf(np.arange(n + 1), n, p) > 1e-12)
    limits = np.array([clopper_pearson(int(k), n) for k in counts])
    inside = (limits[:, 0] <= p) & (p <= limits[:, 1])
    assert stats.binom.pmf(counts[inside], n, p).sum() >= 0.95


def test_clopper_pearson_ends() -> None:
    assert clopper_pearson(0, 100)[0] == 0
    assert clopper_pearson(100, 100)[1] == 1
    # 3 / n is the rule of thumb for a one-sided limit; two-sided it is 3.69 / n.
    assert clopper_pearson(0, 1000)[1] == pytest.approx(0.003682, abs=1e-6)


def test_poisson_limits_are_garwoods() -> None:
    assert poisson_limits(0) == (0.0, pytest.approx(3.6889, abs=1e-4))
    assert poisson_limits(10) == (pytest.approx(4.7954, abs=1e-4), pytest.approx(18.3904, abs=1e-4))


def test_mid_p_limits_cover_their_level_on_average_and_are_inside_the_exact_ones() -> None:
    assert mid_p_limits(0) == (0.0, pytest.approx(-np.log(0.05), abs=1e-9))
    counts = np.arange(60)
    limits, exact = (np.array([of(k) for k in counts]) for of in (mid_p_limits, poisson_limits))
    assert (limits[1:, 0] > exact[1:, 0]).all()
    assert (limits[:, 1] < exact[:, 1]).all()
    means = np.linspace(4, 20, 801)[:, None]
    chances = stats.poisson.pmf(counts, means)
    covered, exactly = ((chances * ((each[:, 0] <= means) & (means <= each[:, 1]))).sum(1) for each in (limits, exact))
    assert covered.mean() == pytest.approx(0.95, abs=0.004)
    assert exactly.mean() > 0.96
    for count in (1e6, 1.000001e6, 1e30):
        assert mid_p_limits(count) == pytest.approx([count - 1.96 * count**0.5, count + 1.96 * count**0.5], rel=1e-5)


N = 2000
POOLS = {
    "rare": np.full(2000, 0.005 / N),
    "even, half seen": np.full(300, 0.7 / N),
    "even, small": np.full(10, 1.5 / N),
    "even, nearly all seen": np.full(50, 3 / N),
    "zipf": np.minimum(0.5, 200 / N / np.arange(1, 501) / (1 / np.arange(1, 501)).sum()),
    "steep": np.minimum(0.5, 1000 / N * np.arange(1, 301) ** -2.0),
    "few common, many rare": np.r_[np.full(5, 20 / N), np.full(100, 0.01 / N)],
    "common and rare": np.r_[np.full(200, 3 / N), np.full(1000, 0.01 / N)],
    "saturated": np.full(10, 5 / N),
}


def coverage_of_pool(rates: np.ndarray, repetitions: int) -> float:
    rng = np.random.default_rng(1)
    truth = (1 - (1 - rates) ** N).sum()
    assert truth >= 5
    covered = 0
    for _ in range(repetitions):
        counts = rng.binomial(N, rates)
        low, high = distinct_interval(counts[counts > 0], N, limit=rates.size)
        covered += low <= truth <= high
    return covered / repetitions


def coverage_of_clusters(size: int, clusters: int, rate: float, repetitions: int) -> float:
    """Duplicates in the training set: one sample hits all images of a cluster at once."""
    rng = np.random.default_rng(2)
    truth = size * clusters * (1 - (1 - rate) ** N)
    assert truth >= 5
    covered = 0
    for _ in range(repetitions):
        counts = rng.binomial(N, rate, clusters)
        seen = counts[counts > 0]
        ids = np.repeat(np.arange(seen.size), size)
        low, high = distinct_interval(np.repeat(seen, size), N, only_sample=ids, limit=size * clusters)
        covered += low <= truth <= high
    return covered / repetitions


@pytest.mark.parametrize("pool", POOLS)
def test_the_interval_of_distinct_images_covers(pool: str) -> None:
    assert coverage_of_pool(POOLS[pool], 300) >= 0.92


def test_it_covers_where_one_sample_hits_many_duplicates() -> None:
    assert coverage_of_clusters(10, 100, 0.2 / N, 300) >= 0.92


@pytest.mark.slow
@pytest.mark.parametrize("pool", POOLS)
def test_the_interval_of_distinct_images_covers_2000(pool: str) -> None:
    assert coverage_of_pool(POOLS[pool], 2000) >= 0.94


@pytest.mark.slow
@pytest.mark.parametrize(("size", "clusters", "rate"), [(10, 100, 0.2), (3, 300, 0.05), (20, 30, 1.0)])
def test_it_covers_duplicates_2000(size: int, clusters: int, rate: float) -> None:
    assert coverage_of_clusters(size, clusters, rate / N, 2000) >= 0.94


def test_without_grouping_duplicates_are_not_covered() -> None:
    """Why the hits name a sample: taken as independent, ten duplicates at a time look like ten times the evidence."""
    rng = np.random.default_rng(2)
    truth, covered = 1000 * (1 - (1 - 0.2 / N) ** N), 0
    for _ in range(200):
        counts = rng.binomial(N, 0.2 / N, 100)
        low, high = distinct_interval(np.repeat(counts[counts > 0], 10), N)
        covered += low <= truth <= high
    assert covered < 0.75 * 200


def test_no_hits_still_have_an_upper_limit() -> None:
    low, high = distinct_interval(np.empty(0, np.int64), 1000)
    assert (low, high) == (0.0, pytest.approx(3.6889, abs=1e-4))


def test_the_training_set_bounds_the_interval() -> None:
    assert distinct_interval(np.ones(9, np.int64), 1000, limit=10)[1] == 10


def test_mcnemar_is_the_exact_binomial_test() -> None:
    a = np.array([1] * 12 + [1] * 9 + [0] * 2 + [0] * 100, bool)
    b = np.array([1] * 12 + [0] * 9 + [1] * 2 + [0] * 100, bool)
    result = mcnemar(a, b)
    assert (result.both, result.only_a, result.only_b, result.neither) == (12, 9, 2, 100)
    assert result.p_value == pytest.approx(2 * stats.binom.cdf(2, 11, 0.5))
    assert mcnemar(a, a).p_value == 1.0


def test_mcnemar_wants_pairs() -> None:
    with pytest.raises(ValueError, match="paired"):
        mcnemar(np.ones(3, bool), np.ones(4, bool))
