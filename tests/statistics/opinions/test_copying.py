import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from side_ray.statistics.opinions.copying import copying

CELL = np.zeros(40, int)


def test_one_cell_is_the_mann_whitney_z() -> None:
    rng = np.random.default_rng(0)
    samples, unseen = rng.integers(0, 9, 40).astype(float), rng.integers(0, 9, 30).astype(float)
    found = copying(samples, CELL, unseen, CELL[:30])
    assert found is not None
    u = mannwhitneyu(samples, unseen).statistic
    assert found["z"] == pytest.approx((u - 600) / np.sqrt(40 * 30 * 71 / 12))
    assert (found["cells"], found["samples"], found["unseen"]) == (1, 40, 30)


def test_nearer_samples_are_below_zero_and_farther_ones_above() -> None:
    unseen = np.arange(40.0)
    for shift, sign in ((-30, -1), (30, 1)):
        found = copying(unseen + shift, CELL, unseen, CELL)
        assert found is not None
        assert found["z"] * sign > 4
    same = copying(unseen, CELL, unseen, CELL)
    assert same is not None
    assert same["z"] == 0


def test_cells_weigh_as_unseen_images_do_and_small_ones_are_left_out() -> None:
    # Copies in one cell are hidden by far samples in the others where all are one cell.
    samples = np.concatenate([np.zeros(30), np.full(30, 9.0), np.full(20, 9.0)])
    cells = np.repeat([0, 1, 2], [30, 30, 20])
    unseen, where = np.full(50, 5.0), np.repeat([0, 1, 2], [30, 10, 10])
    found = copying(samples, cells, unseen, where)
    assert found is not None
    scores = -450 / np.sqrt(30 * 30 * 61 / 12), 150 / np.sqrt(30 * 10 * 41 / 12)
    assert found["z"] == pytest.approx((30 * scores[0] + 10 * scores[1]) / 40)
    assert (found["cells"], found["samples"], found["unseen"]) == (2, 60, 40)


def test_where_no_cell_has_enough_samples_they_are_one() -> None:
    found = copying(np.zeros(30), np.arange(30), np.ones(30), np.arange(30))
    assert found is not None
    assert (found["cells"], found["samples"]) == (1, 30)
    assert found["z"] < -6


def test_too_few_samples_say_nothing() -> None:
    assert copying(np.zeros(20), CELL[:20], np.ones(30), CELL[:30]) is None
    assert copying(np.zeros(30), CELL[:30], np.ones(0), CELL[:0]) is None
