import numpy as np
import pytest

from side_ray.search import Neighbors
from side_ray.similarity.nl2 import Nl2
from side_ray.statistics.evidence.pool import Competition, PoolShape, compete


def nearest(distances: np.ndarray, k: int = 50) -> Neighbors:
    ids = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return Neighbors(ids, np.take_along_axis(distances, ids, 1))


@pytest.fixture
def distances():
    return np.random.default_rng(0).uniform(1, 2, (20, 150))


def test_both_sides_share_the_normalizer_of_the_whole_pool(distances):
    m, unit = 60, np.linspace(0.5, 3, 20)[:, None]  # any unit that a sample's two lists share
    found = compete(nearest(distances[:, :m] / unit), nearest(distances[:, m:] / unit), m, Nl2(), -1.8)
    values = distances / (0.5 * np.sort(distances, axis=1)[:, :50].mean(axis=1, keepdims=True))
    assert found.winner.tolist() == values.argmin(axis=1).tolist()
    assert found.closeness == pytest.approx(-values.min(axis=1), rel=1e-5)
    pairs = np.zeros(values.shape, bool)
    pairs[found.rows, found.images] = True
    assert (pairs == (values <= 1.8)).all()
    near = found.within(-1.7)
    assert len(near.rows) == (values <= 1.7).sum() < len(found.rows)


def test_exchanging_members_and_unseen_images_exchanges_the_winners(distances):
    distances[:, 75:] = distances[:, :75]  # every member has a twin among the unseen images
    found = compete(nearest(distances[:, :75]), nearest(distances[:, 75:]), 75, Nl2(), -0.5)
    members = found.winner < 75
    assert 3 <= members.sum() <= 17  # ties are drawn, neither side wins them all


def test_shards_are_joined_in_order():
    part = Competition(np.array([1, 2]), np.float32([-0.5, -1]), np.array([0]), np.array([1]))
    joined = Competition.join([part, part])
    assert joined.rows.tolist() == [0, 2]
    assert joined.size == 4


def test_members_come_first():
    assert PoolShape.plain(2, 3).is_member.tolist() == [True, True, False, False, False]
