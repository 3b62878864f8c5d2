import numpy as np

from side_ray.statistics.evidence.decoys import Entrants
from side_ray.statistics.evidence.strata import LEAST_IMAGES, Strata, learn, merge_small, split_by_class, stratum_cuts


def test_kinds_of_images_are_told_apart_and_all_assigned_by_one_rule():
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 2, 500)
    features = (rng.normal(size=(500, 4)) + 20 * kinds[:, None]).astype(np.float32)
    strata = learn(features, 2 * LEAST_IMAGES)
    assert len(strata.centroids) == 2
    assert len(set(zip(strata.assign(features).tolist(), kinds.tolist(), strict=True))) == 2


def test_a_small_pool_is_one_stratum_and_equal_images_are_no_clusters():
    features = np.zeros((30, 3), np.float32)
    assert len(learn(features, 10_000).centroids) == 1
    assert len(learn(np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32), LEAST_IMAGES).centroids) == 1


def test_small_strata_go_to_the_nearest_one():
    strata = Strata(np.float32([[0], [1], [10]]), np.arange(3))
    assert merge_small(strata, np.repeat([0, 1, 2], [100, 3, 100])).stratum.tolist() == [0, 0, 1]
    assert merge_small(strata, np.repeat([0, 1, 2], [2, 2, 2])).stratum.tolist() == [0, 0, 0]


def test_a_stratum_has_its_own_cut_only_with_enough_unseen_images():
    scores = np.r_[np.arange(1000.0), -np.arange(1000.0)]
    pool = Entrants(scores, np.zeros(2000, bool), np.repeat([0, 1], 1000), np.arange(2000), np.zeros(2000))
    cuts, rate = stratum_cuts(pool, 0.001, 0.5)
    assert rate == 0.01
    # At most 1 % of (1 + count) / (1 + n): nine unseen images are inside.
    assert [(scores[:1000] >= cuts[0]).sum(), (scores[1000:] >= cuts[1]).sum()] == [9, 9]
    few = Entrants(scores[:600], np.zeros(600, bool), np.repeat([0, 1], 300), np.arange(600), np.zeros(600))
    assert stratum_cuts(few, 0.001, 0.5)[1] is None
    assert stratum_cuts(few, 0.001, 0.5)[0].tolist() == [0.5, 0.5]


def test_classes_divide_strata_where_they_are_large_and_hold_members_by_chance():
    rng = np.random.default_rng(0)
    stratum = np.repeat([0, 1, 2], [200, 100, 60])
    labels = np.concatenate([np.repeat([0, 1, 2, -1], [90, 60, 40, 10]), np.repeat([0, 5], [80, 20]), np.full(60, -1)])
    is_member = rng.random(360) < 0.4
    is_member[150:190] = True  # class 2 names members only
    found = split_by_class(stratum, labels, is_member)
    assert [set(found[part].tolist()) for part in (slice(0, 90), slice(90, 150), slice(150, 200))] == [{0}, {1}, {2}]
    assert set(found[200:300].tolist()) == {3}  # its small class joins the large one
    assert set(found[300:].tolist()) == {4}
