import itertools

import numpy as np
import pytest

from side_ray.statistics.evidence.excess import compare, excess, exchanged
from side_ray.statistics.evidence.pool import Competition, PoolShape


def competition(hits: np.ndarray) -> Competition:
    """From bool [N, m + d], which images are within the cut."""
    rows, images = np.nonzero(hits)
    return Competition(np.zeros(len(hits), int), np.zeros(len(hits), np.float32), rows, images)


def test_the_unseen_share_is_the_mean_over_all_blocks_of_m():
    hits = np.random.default_rng(0).random((50, 3 + 6)) < 0.2
    found = excess(competition(hits), PoolShape.plain(3, 6))
    blocks = [hits[:, 3 + np.array(block)].any(axis=1).mean() for block in itertools.combinations(range(6), 3)]
    assert found.unseen.share.mean() == pytest.approx(np.mean(blocks))
    assert found.member.share.mean() == pytest.approx(hits[:, :3].any(axis=1).mean())
    assert found.value == pytest.approx(found.member.share.mean() - found.unseen.share.mean())


def test_replicates_are_what_recounting_without_the_fold_gives():
    hits = np.random.default_rng(1).random((40, 4 + 5)) < 0.15
    shape = PoolShape.plain(4, 5)
    found = excess(competition(hits), shape)
    rng = np.random.default_rng(0)
    folds = np.r_[rng.permutation(4) % 4, rng.permutation(5) % 4]
    for fold in range(4):
        members = (folds != fold) & shape.is_member
        assert found.member.folds[fold] == pytest.approx(hits[:, members].any(axis=1).mean() * 4 / 3)
        unseen = np.flatnonzero((folds != fold) & ~shape.is_member)
        size = min(4, unseen.size)
        blocks = [hits[:, np.array(block)].any(axis=1).mean() for block in itertools.combinations(unseen, size)]
        assert found.unseen.folds[fold] == pytest.approx(np.mean(blocks) * 4 / size)


def test_fewer_unseen_images_than_members_are_scaled_up():
    hits = np.zeros((10, 4 + 2), bool)
    hits[:3, 5] = True
    assert excess(competition(hits), PoolShape.plain(4, 2)).unseen.share.mean() == pytest.approx(0.3 * 4 / 2)


def test_duplicates_count_as_one_image():
    hits = np.random.default_rng(3).random((50, 3 + 6)) < 0.2
    twice = hits[:, [0, 1, 2, *range(3, 9), 8]]  # the last unseen image twice; only its first is a neighbour
    twice[:, -1] = False
    shape = PoolShape(3, 7, np.array([*range(9), 8]), np.zeros(10, np.int64), np.zeros(10))
    found, plain = excess(competition(twice), shape), excess(competition(hits), PoolShape.plain(3, 6))
    assert found.value == pytest.approx(plain.value)
    assert found.member.folds == pytest.approx(plain.member.folds)
    assert found.unseen.folds == pytest.approx(plain.unseen.folds)


def test_no_hit_at_all_leaves_room_on_both_sides():
    found = excess(competition(np.zeros((100, 20), bool)), PoolShape.plain(10, 10))
    assert found.value == 0
    assert found.ci == pytest.approx((-0.02996, 0.02996), abs=1e-3)
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


@pytest.mark.parametrize("values", [[1.0, 1, 1], [1, -1, 0.25, 1, 1, 0], [0.5, 0.125, -1, 1, 1, 1, 1], [1.0], []])
def test_exchanged_is_the_share_of_all_signs(values):
    sums = [
        abs(sum(sign * abs(x) for sign, x in zip(signs, values, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(values))
    ]
    assert exchanged(np.array(values)) == pytest.approx(np.mean(np.array(sums) >= abs(sum(values)) - 1e-9))


def test_images_that_are_hit_at_random_add_nothing_to_the_samples_noise():
    """Without images of their own rates the variance is that of N samples, which both parts of it contain."""
    rng, widths = np.random.default_rng(4), []
    shape = PoolShape.plain(100, 200)
    for _ in range(40):
        rows = np.flatnonzero(rng.random(1000) < 0.3)
        hits = Competition(np.zeros(1000, int), np.zeros(1000, np.float32), rows, rng.integers(0, 300, rows.size))
        low, high = excess(hits, shape).ci
        widths.append((high - low) / (2 * 1.97))
    # 0.1 of the samples match a member, and 0.2 an unseen image, half of which count.
    assert np.mean(widths) == pytest.approx(np.sqrt((0.1 + 0.2 / 4) / 1000), rel=0.08)


def test_members_that_are_copied_are_no_sample_of_anything_when_two_conditions_are_compared():
    """Few images with many copies make the excess of a population uncertain, but not which condition copies more of them."""
    shape = PoolShape.plain(100, 200)
    few, many = np.zeros((500, 300), bool), np.zeros((500, 300), bool)
    few[:10, 3], many[:60, 3] = True, True
    found, base = excess(competition(many), shape), excess(competition(few), shape)
    assert found.ci[0] <= 0.0
    assert compare(found, base).p_value < 1e-9
    assert compare(found, base, paired=False).p_value < 1e-6
    # The same matches of an unseen image may be chance.
    unseen = [excess(competition(np.roll(each, 150, axis=1)), shape) for each in (many, few)]
    assert compare(*unseen).p_value > 0.05


def test_the_upper_limit_counts_in_units_of_the_images_with_most_matches():
    singles = np.zeros((1000, 100 + 100), bool)
    singles[range(40), range(40)] = True
    many = singles.copy()
    many[40:70, 50] = True
    shape = PoolShape.plain(100, 100)
    one, other = excess(competition(singles), shape), excess(competition(many), shape)
    # Each fold is one image here: 40 of one match; and one more of 30, which adds Σc³/Σc² = (40 + 27,000) / (40 + 900).
    assert one.member.unit * 1000 == pytest.approx(1, abs=0.1)
    assert one.member.jump == one.member.unit
    assert other.member.jump * 1000 == pytest.approx(27040 / 940, rel=0.05)
    assert other.member.jump > 1.5 * other.member.unit
    assert other.ci[1] - other.value > 2 * (other.value - other.ci[0])
