"""Normalized L2: its definition, its bounds, its invariance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from side_ray.errors import UserError
from side_ray.search import Index, Neighbors
from side_ray.similarity.nl2 import Nl2


def images(seed: int, n: int, side: int = 4, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, channels), np.uint8)


def scored(queries: np.ndarray, train: np.ndarray) -> tuple[Neighbors, np.ndarray]:
    similarity = Nl2()
    index = Index(similarity.embed(train), np.arange(len(train)), similarity.metric, engine="torch", threads=1)
    neighbors, _ = index.search(similarity.embed(queries), 50)
    return neighbors, similarity.values(neighbors)


def test_pixels_are_kept_exactly() -> None:
    batch = images(0, 5, 3, 3)
    features = Nl2().embed(batch)
    assert features.dtype == np.float32
    assert (features.reshape(batch.shape) == batch).all()
    assert (Nl2().embed(list(batch)) == features).all()


def test_the_definition() -> None:
    train, queries = images(1, 80), images(2, 7)
    _, values = scored(queries, train)
    distances = np.sort(np.sqrt(((queries[:, None].astype(float) - train[None]) ** 2).sum(axis=(2, 3, 4))), axis=1)
    wanted = distances[:, :50] / (0.5 * distances[:, :50].mean(axis=1, keepdims=True))
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, wanted.astype(np.float32))


@given(st.integers(0, 2**32 - 1), st.integers(50, 120))
def test_the_nearest_is_at_most_two_and_the_fiftieth_at_least(seed: int, n: int) -> None:
    _, values = scored(images(seed, 5), images(seed + 1, n))
    assert (values[:, 0] <= 2).all()
    assert (values[:, 49] >= 2).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.25, 2.0, 3.0, 1000.0]))
def test_values_are_free_of_scale(seed: int, scale: float) -> None:
    distances = np.sort(np.random.default_rng(seed).random((4, 60)), axis=1)
    ids = np.zeros(distances.shape, np.int64)
    scaled, plain = (Nl2().values(Neighbors(ids, factor * distances)) for factor in (scale, 1))
    np.testing.assert_allclose(scaled, plain, rtol=2e-7)


@given(st.integers(0, 2**32 - 1))
@pytest.mark.long
def test_a_copy_is_best_at_its_original_with_value_zero(seed: int) -> None:
    train = images(seed, 70)
    neighbors, values = scored(train, train)
    assert (neighbors.values[:, 0] == 0).all()
    assert (values[:, 0] == 0).all()
    first = [min(j for j in range(70) if (train[j] == image).all()) for image in train]
    assert neighbors.ids[:, 0].tolist() == first


def test_fifty_copies_of_one_image_divide_nothing_by_nothing() -> None:
    train = np.concatenate([np.full((50, 4, 4, 1), 7, np.uint8), images(3, 20)])
    _, values = scored(train[:1], train)
    assert (values[0, :50] == 0).all()


def test_a_small_training_set_uses_what_it_has() -> None:
    train, queries = images(4, 12), images(5, 3)
    neighbors, values = scored(queries, train)
    assert neighbors.ids.shape == (3, 12)
    np.testing.assert_allclose(values.mean(axis=1), 2, rtol=1e-6)
    assert Nl2().complete_below(neighbors, 12) == np.inf
    assert Nl2().complete_below(neighbors, 13) is None


def test_stored_neighbours_are_complete_below_two() -> None:
    train, queries = images(6, 300), images(7, 40)
    neighbors, values = scored(queries, train)
    limit = Nl2().complete_below(neighbors, 300)
    assert limit == 2
    distances = np.sqrt(((queries[:, None].astype(float) - train[None]) ** 2).sum(axis=(2, 3, 4)))
    denominator = Nl2().denominator(neighbors)
    assert denominator is not None
    assert ((distances / denominator[:, None]).astype(np.float32) < limit).sum() == (values < limit).sum()


def test_images_of_several_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="one size"):
        Nl2().embed([np.zeros((4, 4, 1), np.uint8), np.zeros((4, 5, 1), np.uint8)])


def test_parameters() -> None:
    assert Nl2(alpha=0.25, n=10).params() == {"alpha": 0.25, "n": 10}
    with pytest.raises(UserError, match="alpha"):
        Nl2(alpha=0)
