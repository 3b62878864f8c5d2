"""The paper's closed forms against Monte-Carlo estimates, numerical derivatives and other libraries."""

import math

import numpy as np
import pytest
from scipy import stats

from side_ray.theory.measures import (
    Gaussian,
    derivative_along,
    divergence_from_points,
    mixture_divergence,
    mixture_log_density,
    numerical_derivative,
    point_memorization,
    point_memorization_of_samples,
    semantic_memorization,
    semantic_memorization_of_samples,
    theorem_1,
)

D = 5


@pytest.fixture
def gaussian():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((D, D)) / 2
    return Gaussian(rng.standard_normal(D), root @ root.T + 0.1 * np.eye(D))


@pytest.fixture
def points():
    return np.random.default_rng(1).standard_normal((30, D))


def test_fit_has_the_moments_of_the_papers_appendix(points):
    found = Gaussian.fit(points)
    assert found.mean == pytest.approx(points.mean(0))
    assert found.covariance == pytest.approx(np.cov(points.T, bias=True))


def test_density_is_scipys(gaussian, points):
    expected = stats.multivariate_normal(gaussian.mean, gaussian.covariance).logpdf(points)
    assert gaussian.log_density(points) == pytest.approx(expected)


@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 2.0])
def test_equation_137_is_the_divergence_by_quadrature_in_one_dimension(epsilon):
    p = Gaussian(np.array([0.3]), np.array([[0.5]]))
    x = np.linspace(-12, 12, 400_001)
    density = stats.norm(0.3, math.sqrt(0.5)).pdf(x)
    log_q = -((x - 1.1) ** 2) / (2 * epsilon) - 0.5 * math.log(2 * math.pi * epsilon)
    integrand = density * (stats.norm(0.3, math.sqrt(0.5)).logpdf(x) - log_q)
    found = divergence_from_points(p, np.array([[1.1]]), epsilon)
    assert found[0] == pytest.approx(np.trapezoid(integrand, x), rel=1e-6)


@pytest.mark.parametrize("epsilon", [1e-4, 0.01, 1.0])
def test_closed_form_and_monte_carlo_agree_within_a_percent(gaussian, points, epsilon):
    samples = gaussian.draw(60_000, seed=2)
    closed = point_memorization(gaussian, points, epsilon)
    found = point_memorization_of_samples(samples, gaussian.log_density(samples), points, epsilon)
    assert found.value == pytest.approx(closed, rel=0.01)
    assert abs(found.value - closed) < 4 * found.error


def test_semantic_memorization_closed_form_and_monte_carlo_agree_within_a_percent(gaussian, points):
    found = semantic_memorization_of_samples(gaussian.draw(60_000, seed=3), points)
    assert found.value == pytest.approx(semantic_memorization(gaussian, points), rel=0.01)


def test_a_singular_covariance_has_no_finite_pointwise_memorization():
    flat = Gaussian.fit(np.random.default_rng(0).standard_normal((3, D)))
    assert flat.log_determinant() == -math.inf
    assert point_memorization(flat, np.zeros((2, D)), 0.1) == math.inf


@pytest.mark.parametrize("epsilon", [1e-3, 0.05, 3.0])
def test_derivative_is_the_numerical_one_in_any_direction(gaussian, points, epsilon):
    rng = np.random.default_rng(4)
    root = rng.standard_normal((D, D))
    for direction in (np.eye(D), gaussian.covariance, root @ root.T, np.diag(np.eye(D)[2])):
        numerical = numerical_derivative(gaussian, points, epsilon, direction)
        assert derivative_along(gaussian.covariance, epsilon, direction) == pytest.approx(numerical, rel=1e-4, abs=1e-5)


def test_the_printed_sign_of_theorem_1_is_wrong_and_the_corrected_one_is_exact_in_one_dimension():
    p, points = Gaussian(np.zeros(1), np.array([[0.4]])), np.array([[0.2], [-1.0]])
    found = theorem_1(p.covariance, 0.1)
    numerical = numerical_derivative(p, points, 0.1, np.eye(1))
    assert found.corrected == pytest.approx(numerical, rel=1e-6)
    assert found.isotropic == pytest.approx(numerical, rel=1e-6)
    assert abs(found.printed - numerical) > 1


def test_corrected_theorem_1_is_a_lower_bound_and_the_derivative_turns_negative_for_a_large_radius(gaussian):
    least = np.linalg.eigvalsh(gaussian.covariance)[0]
    rng = np.random.default_rng(5)
    for epsilon in (0.5 * least, 2.0):
        found = theorem_1(gaussian.covariance, epsilon)
        assert found.corrected <= found.least <= found.isotropic
        bound = found.least - 1e-9
        for _ in range(50):
            root = rng.standard_normal((D, rng.integers(1, D + 1)))
            assert derivative_along(gaussian.covariance, epsilon, root @ root.T) >= bound
    vector = np.linalg.eigh(gaussian.covariance)[1][:, :1]
    for epsilon, sign in ((0.9 * least, 1), (1.1 * least, -1)):
        narrowest = derivative_along(gaussian.covariance, epsilon, vector @ vector.T)
        assert narrowest == pytest.approx(theorem_1(gaussian.covariance, epsilon).least)
        assert sign * narrowest > 0


def test_mixture_density_is_scipys(points):
    x = np.random.default_rng(6).standard_normal((7, D))
    parts = [stats.multivariate_normal(point, 0.3 * np.eye(D)).logpdf(x) for point in points]
    expected = np.logaddexp.reduce(parts) - math.log(len(points))
    assert mixture_log_density(x, points, 0.3) == pytest.approx(expected)


def test_mixture_of_a_points_own_class_alone(points):
    x, labels = points[:6] + 0.1, np.arange(30) % 3
    found = mixture_log_density(x, points, 0.2, labels[:6, None] == labels)
    for row, own in zip(range(6), labels[:6], strict=True):
        assert found[row] == pytest.approx(mixture_log_density(x[row : row + 1], points[labels == own], 0.2)[0])


def test_divergence_of_the_smoothed_set_from_itself_is_zero_and_from_a_wider_one_is_not(points):
    rng = np.random.default_rng(7)
    x = points[rng.integers(0, 30, 4000)] + 0.1 * rng.standard_normal((4000, D))
    log_q = mixture_log_density(x, points, 0.01)
    assert mixture_divergence(log_q, log_q).value == 0
    wider = mixture_divergence(log_q, mixture_log_density(x, points, 0.04))
    # While the components hardly overlap it is that of single Gaussians: d/2 (ln 4 + 1/4 - 1).
    assert wider.value == pytest.approx(D / 2 * (math.log(4) - 0.75), rel=0.02)
