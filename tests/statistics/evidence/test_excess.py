import itertools

import numpy as np
import pytest

from side_ray.statistics.evidence.excess import compare, excess
from side_ray.statistics.evidence.pool import Competition, PoolShape


def competition(hits: np.ndarray) -> Competition:
    """From bool [N, m + d], which images are within the cut."""
    rows, images = np.nonzero(hits)
    return Competition(np.zeros(len(hits), int), np.zeros(len(hits), np.float32), rows, images)


def test_the_unseen_share_is_the_mean_over_all_blocks_of_m():
    hits = np.random.default_rng(0).random((50, 3 + 6)) < 0.2
    found = excess(competition(hits), PoolShape.plain(3, 6))
    blocks = [hits[:, 3 + np.array(block)].any(axis=1).mean() for block in itertools.combinations(range(6), 3)]
    assert found.unseen_share == pytest.approx(np.mean(blocks))
    assert found.member_share == pytest.approx(hits[:, :3].any(axis=1).mean())
    assert found.value == pytest.approx(found.member_share - found.unseen_share)


def test_replicates_are_what_recounting_without_the_fold_gives():
    hits = np.random.default_rng(1).random((40, 4 + 5)) < 0.15
    shape = PoolShape.plain(4, 5)
    found = excess(competition(hits), shape)
    rng = np.random.default_rng(0)
    folds = np.r_[rng.permutation(4) % 4, rng.permutation(5) % 4]
    for fold in range(4):
        members = (folds != fold) & shape.is_member
        assert found.folds[0, fold] == pytest.approx(hits[:, members].any(axis=1).mean() * 4 / 3)
        unseen = np.flatnonzero((folds != fold) & ~shape.is_member)
        size = min(4, unseen.size)
        blocks = [hits[:, np.array(block)].any(axis=1).mean() for block in itertools.combinations(unseen, size)]
        assert found.folds[1, fold] == pytest.approx(np.mean(blocks) * 4 / size)


def test_fewer_unseen_images_than_members_are_scaled_up():
    hits = np.zeros((10, 4 + 2), bool)
    hits[:3, 5] = True
    assert excess(competition(hits), PoolShape.plain(4, 2)).unseen_share == pytest.approx(0.3 * 4 / 2)


def test_duplicates_count_as_one_image():
    hits = np.random.default_rng(3).random((50, 3 + 6)) < 0.2
    twice = hits[:, [0, 1, 2, *range(3, 9), 8]]  # the last unseen image twice; only its first is a neighbour
    twice[:, -1] = False
    shape = PoolShape(3, 7, np.array([*range(9), 8]), np.zeros(10, np.int64), np.zeros(10))
    found, plain = excess(competition(twice), shape), excess(competition(hits), PoolShape.plain(3, 6))
    assert found.value == pytest.approx(plain.value)
    assert found.folds == pytest.approx(plain.folds)


def test_no_hit_at_all_leaves_room_on_both_sides():
    found = excess(competition(np.zeros((100, 20), bool)), PoolShape.plain(10, 10))
    assert found.value == 0
    assert found.ci == pytest.approx((-0.0362, 0.0362), abs=1e-3)
    assert not found.established


def test_difference_of_equal_conditions_is_no_evidence_and_of_unequal_ones_is():
    rng = np.random.default_rng(2)
    hits = rng.random((500, 300)) < 0.0005
    shape = PoolShape.plain(100, 200)
    base = excess(competition(hits), shape)
    assert compare(base, base).p_value == 1
    more = hits.copy()
    more[np.arange(120), rng.integers(0, 100, 120)] = True
    assert compare(excess(competition(more), shape), base).p_value < 1e-6
