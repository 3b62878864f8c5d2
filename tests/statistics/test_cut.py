"""The calibrated cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from side_ray.statistics.cut import calibrated_cut
from side_ray.statistics.scores import reaches


@given(
    st.integers(0, 2**32),
    st.sampled_from([100, 1000, 4000, 4321]),
    st.sampled_from([0.001, 0.0003, 0.01]),
    st.booleans(),
)
def test_the_cut_is_the_value_at_its_rank(seed: int, n: int, rate: float, larger: bool) -> None:
    best = np.random.default_rng(seed).normal(1, 0.2, n).astype(np.float32)
    cut = calibrated_cut(best, rate, larger_is_closer=larger)
    ordered = np.sort(best)[::-1] if larger else np.sort(best)
    assert cut.rank == max(1, int(n * rate + 1e-9))
    assert cut.value == ordered[cut.rank - 1]
    assert reaches(best, cut, larger).sum() >= cut.rank
    assert cut.known == (n * rate >= 1 - 1e-9)


def test_a_decimal_rate_is_taken_as_written() -> None:
    # 10,000 · 0.0003 is 2.9999999999999996 in binary.
    assert calibrated_cut(np.arange(10_000, dtype=np.float32), 0.0003, larger_is_closer=False).rank == 3


def test_too_few_values_are_said() -> None:
    cut = calibrated_cut(np.array([3, 1, 2], np.float32), larger_is_closer=False)
    assert (cut.value, cut.rank, cut.n, cut.known) == (1.0, 1, 3, False)
    assert cut.rate_ci[1] > 0.5


@pytest.mark.parametrize("best", [np.empty(0, np.float32), np.array([1, np.nan], np.float32)])
def test_no_values_or_nan_raise(best: np.ndarray) -> None:
    with pytest.raises(ValueError, match="cut needs"):
        calibrated_cut(best, larger_is_closer=True)


@pytest.mark.parametrize("rate", [0.0, 1.0, -1.0])
def test_a_rate_must_be_a_share(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        calibrated_cut(np.ones(3, np.float32), rate, larger_is_closer=True)


def test_the_interval_covers_the_true_rate() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(500):
        cut = calibrated_cut(rng.random(4000).astype(np.float32), larger_is_closer=False)
        # Uniform values: the true false-match rate of a cut is the cut itself.
        covered += cut.rate_ci[0] <= cut.value <= cut.rate_ci[1]
    assert covered >= 0.92 * 500
