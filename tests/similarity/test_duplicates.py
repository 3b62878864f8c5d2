import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.cluster.hierarchy import fcluster, linkage

from side_ray.similarity.duplicates import BOUND, complete_linkage, contrast, groups, near_pairs, thumbnails
from side_ray.sources.published.digits import load_digits
from tests.formats import pictures


def compressed(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def test_a_thumbnail_holds_the_means_of_blocks():
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 8, 3), np.uint8)
    small = thumbnails(images)
    assert small.shape == (2, 16, 8, 3)
    assert (small[:, 0] == np.rint(images[:, :2].mean(axis=1))).all()
    assert (small[:, 15] == np.rint(images[:, 37:].mean(axis=1))).all()
    assert (thumbnails(small) == small).all()


def test_saved_again_as_jpeg_or_with_noise_an_image_is_found_and_others_are_not():
    images = pictures(60, (48, 40))
    rng = np.random.default_rng(1)
    noisy = np.clip(images[:5] + rng.integers(-8, 9, images[:5].shape), 0, 255).astype(np.uint8)
    again = np.stack([compressed(image, 75) for image in images[:5]])
    others = thumbnails(np.concatenate([images, noisy, again]))
    rows, columns, shares = near_pairs(thumbnails(images), others)
    wanted = {(i, i) for i in range(60)} | {(i, 60 + i) for i in range(5)} | {(i, 65 + i) for i in range(5)}
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == wanted
    assert shares.max() < BOUND


@pytest.mark.filterwarnings("error")
def test_images_without_contrast_are_near_to_none():
    flat = np.full((3, 8, 8, 1), 7, np.uint8)
    assert contrast(flat).tolist() == [0, 0, 0]
    assert near_pairs(flat, flat)[0].size == 0


def test_no_two_digits_are_one_image():
    digits = load_digits().images
    rows, columns, _ = near_pairs(thumbnails(digits), thumbnails(digits))
    assert (rows == columns).all()
    assert rows.size == len(digits)


def test_a_chain_is_not_one_group():
    chain = np.array([[0, 1], [1, 2], [2, 3], [3, 4]])
    assert complete_linkage(chain, np.array([0.05, 0.04, 0.05, 0.01])) == [[1, 2], [3, 4]]


def test_equal_images_are_one_group_and_carry_the_number_of_the_first():
    contents, pairs = np.array([9, 4, 9, 7, 4, 8]), np.array([[4, 7], [7, 8], [100, 4]])
    assert groups(contents, pairs, np.array([0.02, 0.05, 0.0])).tolist() == [0, 1, 0, 1, 1, 5]
    assert groups(contents, np.empty((0, 2), np.int64), np.empty(0)).tolist() == [0, 1, 0, 3, 1, 5]


@settings(max_examples=80)
@given(st.integers(0, 2**32 - 1), st.integers(2, 25), st.floats(0.05, 0.9))
def test_complete_linkage_is_that_of_scipy(seed: int, n: int, bound: float):
    points = np.random.default_rng(seed).random((n, 2))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    i, j = np.triu_indices(n, 1)
    near = distances[i, j] <= bound
    found = complete_linkage(np.stack([i[near], j[near]], axis=1), distances[i, j][near])
    labels = fcluster(linkage(distances[i, j], "complete"), bound, "distance")
    wanted = [np.flatnonzero(labels == label).tolist() for label in set(labels.tolist())]
    assert sorted(found) == sorted(each for each in wanted if len(each) > 1)
