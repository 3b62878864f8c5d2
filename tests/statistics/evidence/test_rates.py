import numpy as np
import pytest

from side_ray.statistics.cut import calibrated_cut
from side_ray.statistics.evidence.pool import Competition, PoolShape
from side_ray.statistics.evidence.rates import crossfit, equal_rates, loosest

M, D, N = 100, 200, 4000


def competition(seed: int = 0, copied: int = 0) -> Competition:
    """Each sample has three random images of the pool, the first `copied` ones a close member too."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, M + D, (N, 3))
    values = -rng.uniform(0.4, 1.5, (N, 3)).astype(np.float32)
    images[:copied, 0], values[:copied, 0] = rng.integers(0, M, copied), -0.1
    rows = np.repeat(np.arange(N), 3)
    nearest = values.argmax(1)[:, None]
    return Competition(
        np.take_along_axis(images, nearest, 1)[:, 0],
        values.max(1),
        rows,
        images.ravel(),
        values.ravel(),
    )


def test_every_rate_has_its_own_cut_and_is_kept():
    found, shape = competition(copied=200), PoolShape.plain(M, D)
    rows = equal_rates(found, shape, -1)
    assert [row["rate"] for row in rows] == [0.001, 0.002, 0.005, 0.01, 0.02]
    for row in rows:
        near = found.values >= np.float32(-row["cut"])
        unseen = np.bincount(found.rows[near & (found.images >= M)], minlength=N)
        # A random half of the unseen images holds at least one of u with this probability.
        chance = np.array([0, 1 / 2, 1 - (D - M) * (D - M - 1) / (D * (D - 1))])[np.minimum(unseen, 2)]
        assert row["unseen"] == pytest.approx(chance.mean(), abs=1e-4)
        assert row["rate"] * 0.7 <= row["unseen"] <= row["rate"] * (1 + 1e-9)
        assert row["matches"] == len(set(found.rows[near & (found.images < M)].tolist())) / N
        low, high = row["ci"]
        assert low < 0.05 + row["rate"] < high


@pytest.mark.long
def test_without_copies_members_match_as_often_as_unseen_images():
    inside = [
        low <= row["rate"] <= high
        for seed in range(10)
        for row in equal_rates(competition(seed), PoolShape.plain(M, D), -1)
        for low, high in [row["ci"]]
    ]
    assert np.mean(inside) >= 0.85


def test_the_loosest_pairs_reach_beyond_the_largest_rate():
    found, shape = competition(), PoolShape.plain(M, D)
    fewer = found.within(loosest(found, shape))
    assert len(fewer.rows) < len(found.rows) / 3
    assert equal_rates(fewer, shape, -1) == equal_rates(found, shape, -1)


def test_the_set_that_gives_a_cut_does_not_check_it():
    best = np.float32([0.1, 0.3, 0.5, 0.9])
    sets = [(np.float32([0.2, 0.8, 0.8, 0.8]), np.arange(4)), (np.float32([0.5, 0.5, 0.8, 0.8]), np.zeros(4, int))]
    cuts = [calibrated_cut(np.float32([0.2, 1.0]), 0.4, larger_is_closer=False)] * 1
    cuts.append(calibrated_cut(np.float32([0.5, 1.0]), 0.4, larger_is_closer=False))
    found = crossfit(best, sets, cuts, larger=False)
    assert found["ams_counts"] == [1, 3]
    assert found["unseen_counts"] == [0, 1]
    assert (found["ams"], found["unseen"]) == (4 / 8, 1 / 8)


def test_hits_of_one_image_widen_the_interval():
    best, cut = np.ones(1000, np.float32), calibrated_cut(np.float32([0.2, 1.0]), 0.4, larger_is_closer=False)
    values = np.where(np.arange(1000) < 40, 0.1, 0.9).astype(np.float32)
    one, many = (
        crossfit(best, [(values, images)] * 2, [cut] * 2, larger=False)
        for images in (np.zeros(1000, int), np.arange(1000))
    )
    assert one["unseen"] == many["unseen"] == 0.04
    assert one["unseen_ci"][1] > 3 * many["unseen_ci"][1] / 2
    none = crossfit(best, [(np.ones(1000, np.float32), np.arange(1000))] * 2, [cut] * 2, larger=False)
    assert none["unseen"] == 0 < none["unseen_ci"][1] < 0.01
