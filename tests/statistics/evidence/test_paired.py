"""The paired excess on simulated matches; the full simulation is `python -m bench.paired`."""

import pytest

from bench.paired import CASES, summary


@pytest.mark.parametrize("case", ["nothing, skewed", "equal copies"])
def test_equal_conditions_are_hardly_ever_called_different(case):
    found = summary(CASES[case], 30)
    assert found["p_below_5_percent"] <= 0.1
    assert found["covered"] >= 0.9


def test_more_copies_are_noticed():
    assert summary(CASES["more copies"], 10)["claimed"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("case", list(CASES))
def test_rates_hold_in_2000_simulations(case):
    """With 2,000 runs the standard error of a share of 5 % is 0.5 %, and that of one of 0.1 % is 0.07 %."""
    found = summary(CASES[case], 2000)
    if not CASES[case].apart:
        assert found["covered"] >= 0.93
        if CASES[case].copies[0] == CASES[case].copies[1]:
            assert found["p_below_5_percent"] <= 0.05 + 2 * 0.005
            assert found["p_below_0.1_percent"] <= 0.001 + 3 * 0.0007
    if not max(CASES[case].copies):
        assert found["claimed"] <= 0.025 + 2 * 0.0035
