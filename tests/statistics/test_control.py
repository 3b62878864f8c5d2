import numpy as np
import pytest
from scipy import stats

from side_ray.statistics.control import compare_sets, holm


def flags(*ones: int, n: int = 100) -> np.ndarray:
    found = np.zeros(n, bool)
    found[list(ones)] = True
    return found


def test_only_samples_that_match_one_set_alone_count():
    test = compare_sets(flags(0, 1, 2, 3, 4), flags(4, 5), 300, 300)
    assert (test.members, test.holdout, test.only_members, test.only_holdout) == (5, 2, 4, 1)
    assert test.p_value == pytest.approx(6 / 32)


def test_nothing_matched_proves_nothing():
    assert compare_sets(flags(), flags(), 300, 300).p_value == 1


def test_a_larger_set_may_match_more_often():
    fair = compare_sets(flags(*range(20)), flags(*range(50, 60)), 200, 100)
    assert fair.p_value == pytest.approx(stats.binom.sf(19, 30, 2 / 3))
    assert compare_sets(flags(*range(20)), flags(*range(50, 60)), 100, 100).p_value < fair.p_value


def test_p_values_are_fair_where_both_sets_are_alike_and_small_where_one_is_copied():
    rng = np.random.default_rng(0)
    fair = [compare_sets(rng.random(2000) < 0.003, rng.random(2000) < 0.003, 300, 300).p_value for _ in range(400)]
    assert np.mean(np.array(fair) < 0.05) < 0.06
    assert compare_sets(rng.random(2000) < 0.02, rng.random(2000) < 0.003, 300, 300).p_value < 1e-3


def test_holm_is_statsmodels_textbook_example():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
