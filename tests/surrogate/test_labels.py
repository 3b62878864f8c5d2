import numpy as np
import pytest

from side_ray.errors import UserError
from side_ray.surrogate.labels import (
    cluster_cohesion,
    cluster_labels,
    hard_targets,
    pixel_features,
    random_labels,
    soft_targets,
)

CENTRES = np.array([[8, 0, 0, 0], [0, 8, 0, 0], [0, 0, 8, 0], [0, 0, 0, 8]], np.float32)


def blobs(per_blob: int = 40, spread: float = 0.3, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Four tight, well separated blobs in 4-d: features [N, 4] and which blob each came from."""
    generator = np.random.default_rng(0)
    origin = np.repeat(np.arange(4), per_blob)
    points = CENTRES[origin] + spread * generator.standard_normal((4 * per_blob, 4))
    return (points + offset).astype(np.float32), origin


def test_clusters_recover_the_blobs():
    features, origin = blobs()
    found = cluster_labels(features, 4, 0.5, seed=1)
    assert sorted(found.sizes) == [40] * 4
    assert list(found.kept) == [0, 1, 2, 3]
    assert (found.cohesion > 0.95).all()
    for blob in range(4):
        labels = np.unique(found.assignment[origin == blob])
        assert len(labels) == 1
        np.testing.assert_allclose(found.centroids[labels[0]], features[origin == blob].mean(axis=0), atol=1e-4)
    assert np.array_equal(found.targets.argmax(axis=1), found.assignment)
    assert np.array_equal(found.members, np.arange(160))


def test_a_diffuse_cluster_is_dropped_and_the_rest_renumbered():
    generator = np.random.default_rng(2)
    tight, _ = blobs()
    diffuse = generator.standard_normal((60, 4)).astype(np.float32) * 0.6 + tight.mean(axis=0)
    features = np.concatenate([tight, diffuse])
    everything = cluster_labels(features, 5, -1.0, seed=0)
    assert len(everything.kept) == 5
    worst = int(everything.cohesion.argmin())
    assert everything.cohesion[worst] < 0.5 < np.delete(everything.cohesion, worst).min()

    filtered = cluster_labels(features, 5, 0.5, seed=0)
    assert list(filtered.kept) == [i for i in range(5) if i != worst]
    assert filtered.targets.shape == (220, 4)
    assert set(filtered.assignment) == {-1, 0, 1, 2, 3}
    dropped = np.flatnonzero(filtered.assignment < 0)
    assert np.array_equal(dropped, np.flatnonzero(everything.assignment == worst))
    assert np.array_equal(filtered.members, np.setdiff1d(np.arange(220), dropped))
    kept_before = everything.assignment[filtered.members]
    assert np.array_equal(filtered.kept[filtered.assignment[filtered.members]], kept_before)
    np.testing.assert_array_equal(filtered.centroids, everything.centroids[filtered.kept])
    assert np.array_equal(filtered.sizes, everything.sizes)


def test_a_threshold_that_nothing_passes_says_what_the_cohesion_is():
    features = np.random.default_rng(0).standard_normal((200, 32)).astype(np.float32)
    with pytest.raises(UserError, match=r"surrogate\.cohesion: 0 of 4 clusters reach 0\.9 \(their median is 0\."):
        cluster_labels(features, 4, 0.9, seed=0)


def test_an_offset_of_the_features_changes_nothing():
    plain = cluster_labels(blobs()[0], 4, 0.5, seed=1)
    shifted = cluster_labels(blobs(offset=100.0)[0], 4, 0.5, seed=1)
    assert np.array_equal(plain.assignment, shifted.assignment)
    np.testing.assert_allclose(plain.cohesion, shifted.cohesion, atol=1e-3)
    np.testing.assert_allclose(plain.targets, shifted.targets, atol=1e-3)


def test_clusters_are_a_function_of_the_seed():
    features = np.random.default_rng(5).standard_normal((300, 6)).astype(np.float32)
    one, same, other = (cluster_labels(features, 12, -1.0, seed=s) for s in (2**62 + 1, 2**62 + 1, 2**62 + 2))
    assert np.array_equal(one.assignment, same.assignment)
    assert np.array_equal(one.targets, same.targets)
    assert not np.array_equal(one.assignment, other.assignment)


@pytest.mark.parametrize("clusters", [0, 1, 161])
def test_a_number_of_clusters_that_does_not_fit_is_refused(clusters):
    with pytest.raises(UserError, match=r"surrogate\.classes"):
        cluster_labels(blobs()[0], clusters, 0.5, seed=0)


def test_cohesion_by_hand():
    centred = np.array([[1, 0], [0, 1], [2, 0], [-3, 0]], np.float32)
    found = cluster_cohesion(centred, np.array([0, 0, 1, 1]), 3)
    # Members at right angles lie 45° from their centroid; opposite ones point along and against it; cluster 2 is empty.
    np.testing.assert_allclose(found, [np.sqrt(0.5), 0.0, 0.0], atol=1e-6)


def test_soft_targets_by_hand():
    features = np.array([[0.0], [1.0]], np.float32)
    centroids = np.array([[0.0], [2.0], [5.0]], np.float32)
    squared = np.array([[0.0, 4.0, 25.0], [1.0, 1.0, 16.0]])
    logits = -20 * squared / np.median(squared)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(soft_targets(features, centroids), expected, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(soft_targets(features * 1000, centroids * 1000), expected, rtol=1e-5, atol=1e-12)


def test_sharpness_goes_from_uniform_to_hard():
    features, _ = blobs()
    found = cluster_labels(features, 4, 0.5, seed=1)
    np.testing.assert_allclose(soft_targets(features, found.centroids, 0.0), 0.25)
    sharp = soft_targets(features, found.centroids, 1e6)
    assert np.array_equal(sharp, hard_targets(found.assignment, 4))
    np.testing.assert_allclose(found.targets.sum(axis=1), 1, atol=1e-5)


def test_soft_targets_of_identical_images_are_finite():
    same = np.ones((5, 3), np.float32)
    np.testing.assert_allclose(soft_targets(same, same[:2]), 0.5)


def test_random_labels_are_uniform_and_a_function_of_the_seed():
    labels = random_labels(20_000, 10, seed=3)
    assert labels.dtype == np.int64
    assert np.abs(np.bincount(labels, minlength=10) - 2000).max() < 250
    assert np.array_equal(labels, random_labels(20_000, 10, seed=3))
    assert (labels != random_labels(20_000, 10, seed=4)).mean() > 0.85
    with pytest.raises(UserError, match=r"surrogate\.classes"):
        random_labels(10, 1, seed=0)


def test_pixel_features_are_the_images_in_unit_range():
    images = np.array([[[[0], [255]], [[51], [204]]]], np.uint8)
    features = pixel_features(images)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, [[-1, 1, -0.6, 0.6]], atol=1e-6)


def test_hard_targets():
    assert np.array_equal(hard_targets(np.array([2, 0]), 3), [[0, 0, 1], [1, 0, 0]])
