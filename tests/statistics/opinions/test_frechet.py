import numpy as np
import pytest
from scipy.linalg import sqrtm

from side_ray.statistics.opinions.frechet import Moments, frechet_distance, memorization_informed


def test_pieces_make_the_moments_of_the_whole() -> None:
    features = np.random.default_rng(0).normal(3, 1, (50, 4)).astype(np.float32)
    found = Moments.of([features[:7], features[7:]])
    assert found.n == 50
    assert np.allclose(found.mean, features.mean(0))
    assert np.allclose(found.covariance, np.cov(features.T))
    with pytest.raises(ValueError, match="two descriptors"):
        Moments.of([features[:1]])


def test_the_distance_is_that_of_the_matrix_square_root() -> None:
    rng = np.random.default_rng(1)
    one, other = (Moments.of([rng.normal(size=(40, 5)) @ rng.normal(size=(5, 5))]) for _ in range(2))
    root = sqrtm(one.covariance @ other.covariance).real
    expected = ((one.mean - other.mean) ** 2).sum() + np.trace(one.covariance + other.covariance - 2 * root)
    assert frechet_distance(one, other) == pytest.approx(expected)
    assert frechet_distance(other, one) == pytest.approx(expected)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


def test_fewer_images_than_dimensions_give_a_number() -> None:
    rng = np.random.default_rng(2)
    few, shifted = rng.normal(size=(3, 16)), rng.normal(size=(3, 16)) + 10
    found = frechet_distance(Moments.of([few]), Moments.of([shifted]))
    assert np.isfinite(found)
    assert found > 1000


def test_only_near_samples_are_penalized() -> None:
    assert memorization_informed(3.0, 0.1) == 3.0
    assert memorization_informed(3.0, 0.05) == pytest.approx(60)
    assert np.isfinite(memorization_informed(3.0, 0.0))
