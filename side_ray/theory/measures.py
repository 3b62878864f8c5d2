"""The paper's measures of memorization and its Theorem 1, for distributions with a known density.

Eq. 2 gives q(x, x_i, ε) the covariance ε·I, so ε is a *variance* here, in squared units of the latents; its square root is the
radius. All values are float64, in nats.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

Array = NDArray[np.float64]
CHUNK_ELEMENTS = 2**23
"""Most distances computed at a time."""


class Estimate(NamedTuple):
    """A Monte-Carlo mean and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Gaussian:
    """N(μ, Σ), the paper's model of the latents."""

    mean: Array
    """[d]"""
    covariance: Array
    """[d, d]"""

    @classmethod
    def fit(cls, latents: Array) -> Self:
        """Moments of latents [N, d], divided by N (Eq. 111), so that the law of total covariance holds exactly."""
        mean = latents.mean(axis=0, dtype=np.float64)
        centred = latents - mean
        return cls(mean, centred.T @ centred / len(latents))

    @property
    def dimension(self) -> int:
        return len(self.mean)

    @property
    def trace(self) -> float:
        return float(np.trace(self.covariance))

    def log_determinant(self) -> float:
        """log det Σ; −∞ if Σ is singular, for example with fewer latents than dimensions."""
        values = np.linalg.eigvalsh(self.covariance)
        if values[0] <= values[-1] * self.dimension * np.finfo(float).eps:
            return -math.inf
        return float(np.log(values).sum())

    def draw(self, count: int, seed: int) -> Array:
        """Samples [count, d]."""
        normal = np.random.default_rng(seed).standard_normal((count, self.dimension))
        return self.mean + normal @ linalg.cholesky(self.covariance, lower=True).T

    def log_density(self, x: Array) -> Array:
        """log p [M] of points [M, d]."""
        root = linalg.cholesky(self.covariance, lower=True)
        whitened = linalg.solve_triangular(root, (x - self.mean).T, lower=True)
        normal = self.dimension * math.log(2 * math.pi) + 2 * np.log(np.diag(root)).sum()
        return -0.5 * ((whitened**2).sum(axis=0) + normal)


def divergence_from_points(p: Gaussian, points: Array, epsilon: float) -> Array:
    """KL(p ‖ N(z_i, ε·I)) for each point, Eq. 130 and 137; infinite if Σ is singular.

    Args:
        points: z_i, [N, d].
        epsilon: ε > 0, a variance.

    Returns:
        [N], nats.
    """
    d = p.dimension
    squares = ((points - p.mean) ** 2).sum(axis=1)
    return 0.5 * ((squares + p.trace) / epsilon - p.log_determinant() + d * math.log(epsilon) - d)


def point_memorization(p: Gaussian, points: Array, epsilon: float) -> float:
    """M_point of a Gaussian (Eq. 1 and 2), the sum of `divergence_from_points`. *Smaller* means more memorization."""
    return float(divergence_from_points(p, points, epsilon).sum())


def point_memorization_of_samples(samples: Array, log_p: Array, points: Array, epsilon: float) -> Estimate:
    """M_point (Eq. 1 and 2) of any p_θ from its own samples and their density: Σ_i E_p[log p(x) − log q(x, x_i, ε)].

    Args:
        samples: x ~ p_θ, [M, d].
        log_p: log p_θ(x), [M].
        points: x_i, [N, d].
        epsilon: ε > 0, a variance.
    """
    n, d = points.shape
    squares = _summed_squares(samples, points)
    values = n * (log_p + 0.5 * d * math.log(2 * math.pi * epsilon)) + squares / (2 * epsilon)
    return _mean(values)


def semantic_memorization(p: Gaussian, points: Array) -> float:
    """M_semantic (Eq. 3) of a Gaussian in closed form, |D|·Tr Σ + Σ_i ‖μ − z_i‖² (Eq. 58). points [N, d]."""
    return len(points) * p.trace + float(((points - p.mean) ** 2).sum())


def semantic_memorization_of_samples(samples: Array, points: Array) -> Estimate:
    """M_semantic (Eq. 3) of any p_θ from its own latents: Σ_i E_p‖z − z_i‖². samples [M, d], points [N, d]."""
    return _mean(_summed_squares(samples, points))


class Derivative(NamedTuple):
    """∂M_point/∂M_semantic (Theorem 1) in several interpretations; see `theorem_1`."""

    printed: float
    corrected: float
    isotropic: float
    """Σ grows by the same amount in every direction."""
    scaled: float
    """Σ keeps its shape and grows as a whole."""
    least: float
    """Σ grows where it is narrowest: no direction has a smaller derivative."""
    moved: float
    """Only the mean moves."""


def theorem_1(covariance: Array, epsilon: float) -> Derivative:
    """Theorem 1: the derivative of M_point with respect to M_semantic while a Gaussian p_θ changes.

    M_point = −|D|·H(p) + M_semantic/(2ε) + const, and the entropy enters with a *minus*: the printed plus of Eq. 4 and 38 has
    the wrong sign, and `corrected` is 1/(2ε) − Tr(Σ⁻¹)/2. That is not a derivative: M_semantic does not determine
    the direction in which Σ changes. Along V the derivative is 1/(2ε) − Tr(Σ⁻¹V)/(2·Tr V), see `derivative_along`. Eq. 67 sums
    over the d principal axes instead, so that `corrected` is below the derivative in every direction (and equals it for d = 1).
    M_point increases with M_semantic in every direction exactly if `least` is positive, that is while ε is below the least
    eigenvalue of Σ.

    Args:
        covariance: Σ [d, d], not singular.
        epsilon: ε > 0, a variance.
    """
    inverses = 1 / np.linalg.eigvalsh(covariance)
    inverse = float(inverses.sum())
    half = 1 / (2 * epsilon)
    return Derivative(
        printed=half + inverse / 2,
        corrected=half - inverse / 2,
        isotropic=derivative_along(covariance, epsilon, np.eye(len(covariance))),
        scaled=derivative_along(covariance, epsilon, covariance),
        least=half - float(inverses.max()) / 2,
        moved=half,
    )


def derivative_along(covariance: Array, epsilon: float, direction: Array) -> float:
    """∂M_point/∂M_semantic of a Gaussian whose Σ [d, d] changes along `direction` [d, d], of positive trace."""
    weight = float(np.trace(np.linalg.solve(covariance, direction)))
    return 1 / (2 * epsilon) - weight / (2 * float(np.trace(direction)))


def numerical_derivative(p: Gaussian, points: Array, epsilon: float, direction: Array, step: float = 1e-4) -> float:
    """`derivative_along` by central differences of Eq. 137 and 58: Σ ± h·`direction`, h = `step` · Tr Σ / (d · Tr direction)."""
    h = step * p.trace / float(np.trace(direction)) / p.dimension
    after, before = (Gaussian(p.mean, p.covariance + sign * h * direction) for sign in (1, -1))
    rise = point_memorization(after, points, epsilon) - point_memorization(before, points, epsilon)
    return rise / (semantic_memorization(after, points) - semantic_memorization(before, points))


def mixture_log_density(x: Array, centres: Array, variance: float, allowed: NDArray[np.bool_] | None = None) -> Array:
    """log q_ε of the mixture (1/N) Σ_i N(x_i, `variance`·I), the smoothed training set of arXiv 2410.02467v7.

    Args:
        x: [M, d].
        centres: x_i, [N, d].
        variance: ε² of that text, > 0.
        allowed: bool [M, N], the centres in each point's own mixture; by default all.

    Returns:
        [M], nats.
    """
    n, d = centres.shape
    norms = (centres**2).sum(axis=1)
    result = np.empty(len(x))
    size = max(1, CHUNK_ELEMENTS // n)
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        squares = (x[rows] ** 2).sum(axis=1)[:, None] - 2 * x[rows] @ centres.T + norms
        exponents = -np.maximum(squares, 0) / (2 * variance)
        counts: Array | int = n
        if allowed is not None:
            exponents = np.where(allowed[rows], exponents, -np.inf)
            counts = allowed[rows].sum(axis=1)
        top = exponents.max(axis=1)
        result[rows] = top + np.log(np.exp(exponents - top[:, None]).sum(axis=1)) - np.log(counts)
    return result - 0.5 * d * math.log(2 * math.pi * variance)


def mixture_divergence(log_q: Array, log_p: Array) -> Estimate:
    """KL(q_ε ‖ p_θ) from points of q_ε: the mean of log q_ε − log p_θ, [M] each. *Smaller* means more memorization."""
    return _mean(log_q - log_p)


def _summed_squares(samples: Array, points: Array) -> Array:
    """Σ_i ‖x − x_i‖² for each sample, [M]."""
    mean = points.mean(axis=0)
    return len(points) * ((samples - mean) ** 2).sum(axis=1) + float(((points - mean) ** 2).sum())


def _mean(values: Array) -> Estimate:
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.inf
    return Estimate(float(values.mean()), error)
