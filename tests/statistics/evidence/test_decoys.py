import numpy as np
import pytest
from scipy import stats

from side_ray.statistics.evidence.decoys import Entrants, TopTest, entrants, q_values
from side_ray.statistics.evidence.pool import Competition, PoolShape


def pool(
    scores: list[float], members: str, strata: list[int] | None = None, typical: list[float] | None = None
) -> Entrants:
    """`members` has M for a member and u for an unseen image."""
    size = len(scores)
    return Entrants(
        np.array(scores),
        np.array([c == "M" for c in members]),
        np.array(strata or [0] * size),
        np.arange(size),
        np.array(typical or [0.0] * size),
    )


def test_q_values_follow_the_formula_from_the_best_score_down():
    found = q_values(pool([9, 8, 7, 6, 5, 4, -np.inf, -np.inf], "MMuMMuuM"))
    # m = d... 5 members, 3 unseen: ratio 5/3; T and D at each member: (1, 0), (2, 0), (3, 1), (4, 1).
    fdr = [5 / 3 * (0 + 1) / 1, 5 / 3 / 2, 5 / 3 * 2 / 3, 5 / 3 * 2 / 4]
    expected = [min(fdr), min(fdr[1:]), 1, min(fdr[2:]), min(fdr[3:]), 1, 1, 1]
    assert found == pytest.approx([min(value, 1) for value in expected])


def test_a_stratum_where_everything_is_close_does_not_hide_the_others():
    rng = np.random.default_rng(0)
    near = rng.normal(0, 0.01, 60)  # blanks: closer than any copy
    far = rng.normal(-10, 0.5, 60)
    far[:10] += 6  # ten of 20 members of the other stratum stand out
    members = ("M" * 20 + "u" * 40) * 2
    both = [*near, *far]
    assert (q_values(pool(both, members)) <= 0.2).sum() == 0
    assert (q_values(pool(both, members, [0] * 60 + [1] * 60, [0.0] * 60 + [-10.0] * 60)) <= 0.2).sum() >= 10


def test_a_stratum_of_which_all_found_images_are_copied_is_not_hidden_by_another_one():
    rng = np.random.default_rng(0)
    copied = [*rng.normal(-1, 0.01, 30), *[-np.inf] * 60]  # nothing else of this kind was generated
    other = rng.normal(-5, 1, 60)
    members = "M" * 30 + "u" * 60 + "M" * 20 + "u" * 40
    found = q_values(pool([*copied, *other], members, [0] * 90 + [1] * 60, [-5.0] * 150))
    assert (found[:30] <= 0.2).all()


def test_duplicates_are_one_image_and_mixed_groups_prove_nothing():
    shape = PoolShape(3, 2, np.array([0, 0, 1, 2, 1]), np.zeros(5, np.int64), np.zeros(5))
    found = entrants(shape, [Competition(np.array([0, 1, 4]), np.float32([-1, -0.5, 0]), *[np.empty(0, int)] * 2)])
    assert found.group.tolist() == [0, 2]
    assert found.score.tolist() == [-0.5, -np.inf]
    assert found.is_member.tolist() == [True, False]


def test_the_test_for_few_is_exact_for_one_ranking():
    # Only k = 1 … 1: the p-value is the chance that a member leads.
    scores = [float(score) for score in range(30, 0, -1)]
    assert TopTest.of(pool(scores, "M" * 10 + "u" * 20), depth=1).p_value == pytest.approx(1 / 3, abs=0.02)
    assert TopTest.of(pool(scores, "u" * 20 + "M" * 10), depth=1).p_value == 1


@pytest.mark.long
def test_the_test_for_few_keeps_its_level():
    rng = np.random.default_rng(1)
    labels, strata = np.array([True] * 100 + [False] * 200), np.resize([0, 1, 2], 300)
    null = [
        TopTest.of(Entrants(rng.random(300), labels, strata, np.arange(300), np.zeros(300)), 10).p_value
        for _ in range(100)
    ]
    assert stats.binomtest(int((np.array(null) <= 0.05).sum()), 100, 0.05).pvalue > 0.001


@pytest.mark.parametrize("spread", [False, True])
def test_the_test_for_few_sees_eight_leaders_in_one_stratum_or_over_all(spread):
    rng = np.random.default_rng(1)
    labels, strata = np.array([True] * 100 + [False] * 200), np.resize([0, 1, 2, 3], 300)
    scores = rng.random(300) + 5 * strata
    scores[np.flatnonzero(labels)[:8] if spread else np.flatnonzero(labels & (strata == 2))[:8]] += 2
    test = TopTest.of(Entrants(scores, labels, strata, np.arange(300), 5.0 * strata), 20)
    assert test.p_value < 0.01
    assert test.leading(100, 200) <= 8
