"""Proposition 1 and Theorem 2: always on average, not for every label."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from side_ray.theory.labels import label_effects


def hole() -> tuple[np.ndarray, np.ndarray]:
    """A ring around the mean is one class, the points near the mean are the other: without them the ring is wider than all."""
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    ring = 3 * np.stack([np.cos(angles), np.sin(angles)], 1)
    middle = 0.1 * np.random.default_rng(0).standard_normal((40, 2))
    return np.concatenate([ring, middle]), np.repeat([0, 1], 40)


def test_both_sides_are_the_covariances_of_numpy():
    rng = np.random.default_rng(1)
    z, labels = rng.standard_normal((50, 4)), rng.integers(0, 3, 50)
    found = label_effects(z, labels)
    assert found.trace == pytest.approx(np.trace(np.cov(z.T, bias=True)))
    for each in found.labels:
        own = z[labels == each.label]
        covariance = np.cov(own.T, bias=True)
        assert each.trace == pytest.approx(np.linalg.norm(covariance, "nuc"))
        assert each.own_scatter == pytest.approx(((own - own.mean(0)) ** 2).sum())
        assert each.overall_scatter == pytest.approx(((own - z.mean(0)) ** 2).sum())
        above = each.own_scatter + len(own) * np.trace(covariance)
        below = each.overall_scatter + len(own) * np.trace(np.cov(z.T, bias=True))
        assert each.ratio == pytest.approx(above / below)


@settings(max_examples=30)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 60),
    st.integers(1, 8),
    st.integers(1, 20),
    st.sampled_from(["normal", "heavy", "shifted"]),
)
def test_average_holds_whatever_the_data_and_the_labels(seed, count, dimension, classes, kind):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    z = rng.standard_cauchy((count, dimension)) if kind == "heavy" else rng.standard_normal((count, dimension))
    if kind == "shifted":
        z = z * rng.uniform(0, 3, (classes, 1))[labels] + 5 * rng.standard_normal((classes, dimension))[labels]
    found = label_effects(z, labels)
    tolerance = 1 + 1e-9
    assert all(each.own_scatter <= each.overall_scatter * tolerance + 1e-9 for each in found.labels)
    assert found.mean_trace <= found.trace * tolerance
    assert found.pooled_ratio <= tolerance
    assert found.mean_ratio <= tolerance
    assert found.pooled_ratio == pytest.approx(found.mean_trace / found.trace)
    assert -1e-9 <= found.explained <= 1 + 1e-9


def test_a_label_can_fail_equation_8_and_theorem_2_while_the_average_holds():
    found = label_effects(*hole())
    ring, middle = found.labels
    assert ring.tighter
    assert not ring.narrower(found.trace)
    assert not ring.memorizes_more
    assert middle.narrower(found.trace)
    assert middle.memorizes_more
    assert found.exceptions() == [ring]
    assert found.mean_trace <= found.trace
    assert found.pooled_ratio <= 1
    assert found.mean_ratio <= 1


def test_the_limit_of_theorem_2_is_the_ratio_of_closed_forms_at_a_small_radius():
    from side_ray.theory.measures import Gaussian, point_memorization

    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, 600)
    z = rng.standard_normal((600, 3)) + 2 * rng.standard_normal((3, 3))[labels]
    whole, epsilon = Gaussian.fit(z), 1e-7
    for each in label_effects(z, labels).labels:
        own = z[labels == each.label]
        above = point_memorization(Gaussian.fit(own), own, epsilon)
        assert each.ratio == pytest.approx(above / point_memorization(whole, own, epsilon), rel=1e-4)


def test_unique_labels_explain_everything():
    z = np.random.default_rng(3).standard_normal((20, 4))
    found = label_effects(z, np.arange(20))
    assert found.mean_trace == 0
    assert found.explained == 1
    assert all(each.ratio == 0 for each in found.labels)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="one label per latent"):
        label_effects(np.zeros((3, 2)), np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="the same"):
        label_effects(np.ones((3, 2)), np.zeros(3, np.int64))
