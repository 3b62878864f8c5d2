"""Figure 5: the growth of distinct images beside Eq. 150, and a band that holds the whole curve as often as it says."""

import numpy as np
import pytest

from side_ray.statistics.growth import growth
from side_ray.statistics.richness import rarefy


def draw(rng: np.random.Generator, n: int, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of n samples that hit each image independently at its rate."""
    return np.nonzero(rng.random((n, rates.size)) < rates)


@pytest.fixture(scope="module")
def rates() -> np.ndarray:
    return np.random.default_rng(5).gamma(0.5, 0.01, 80)


def test_measured_and_expected_by_hand():
    samples, images = np.array([0, 1, 1, 3]), np.array([7, 7, 9, 8])
    found = growth(samples, images, 4, points=3, orders=50)
    assert found.m.tolist() == [1, 2, 3]
    assert found.measured.tolist() == [1, 2, 2]
    assert found.expected == pytest.approx(rarefy(np.array([2, 1, 1]), 4, np.array([1, 2, 3])))


@pytest.mark.long
def test_the_band_holds_the_whole_curve_95_times_in_100(rates):
    rng = np.random.default_rng(0)
    inside = []
    for seed in range(200):
        samples, images = draw(rng, 300, rates)
        inside.append(growth(samples, images, 300, points=12, orders=300, seed=seed).inside)
    # Binomial: 95 % of 200 give 179 or more in all but 0.03 % of cases.
    assert 179 <= sum(inside) <= 199


def test_a_pointwise_band_would_be_too_narrow(rates):
    samples, images = draw(np.random.default_rng(1), 300, rates)
    found = growth(samples, images, 300, points=12, orders=2000)
    rng = np.random.default_rng(2)
    middle = 6
    orders = []
    for _ in range(2000):
        position = rng.permutation(300)
        orders.append(len(np.unique(images[position[samples] < found.m[middle]])))
    width = np.subtract(*np.quantile(orders, [0.975, 0.025]))
    assert found.high[middle] - found.low[middle] > 1.2 * width


def test_samples_that_are_not_exchangeable_fall_out(rates):
    rng = np.random.default_rng(3)
    early, late = draw(rng, 150, rates), draw(rng, 150, 8 * rates)
    samples, images = (np.concatenate([a, b]) for a, b in zip(early, late, strict=True))
    samples = np.concatenate([early[0], 150 + late[0]])
    found = growth(samples, images, 300)
    assert not found.inside
    assert found.p_value < 0.001


def test_nothing_and_everything():
    none = growth(np.empty(0, np.int64), np.empty(0, np.int64), 50)
    assert none.inside
    assert not none.measured.any()
    every = growth(np.repeat(np.arange(20), 3), np.tile(np.arange(3), 20), 20)
    assert every.inside
    assert (every.measured == 3).all()
