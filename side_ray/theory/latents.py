"""Theorem 1, Proposition 1 and Theorem 2 evaluated on one set of latents, as JSON-able numbers."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from side_ray.theory.labels import LabelledLatents, label_effects
from side_ray.theory.measures import (
    Gaussian,
    numerical_derivative,
    point_memorization,
    point_memorization_of_samples,
    semantic_memorization,
    theorem_1,
)

MOST_DIMENSIONS = 1024
"""Above this no covariance is computed: it would be large, and a few thousand latents do not determine it. Traces still are."""
MONTE_CARLO = 20_000


def analyse(
    latents: NDArray[np.floating], labellings: Mapping[str, NDArray[np.int64]], epsilons: list[float], seed: int
) -> dict[str, Any]:
    """All quantities of the paper for these latents.

    Args:
        latents: z_i, [N, d].
        labellings: by name, the labels of the latents, int64 [N].
        epsilons: ε of Eq. 2, variances relative to that of the latents: each is multiplied by Tr Σ / d.

    Returns:
        `count`, `dimension`, `trace`; `gaussian` (None if the covariance is singular or too large), a list over ε of
        `epsilon`, `point` (Eq. 137) and `point_monte_carlo` per latent, and Theorem 1's derivatives; `labellings`, by name
        the averages and, under `labels`, both sides of Eq. 7 and 8 and the ratio of Eq. 145 for each label.
    """
    z = latents.astype(np.float64)
    count, dimension = z.shape
    p = Gaussian.fit(z) if dimension <= MOST_DIMENSIONS else None
    regular = p is not None and math.isfinite(p.log_determinant())
    trace = float(((z - z.mean(axis=0)) ** 2).sum() / count)
    scaled = [epsilon * trace / dimension for epsilon in epsilons]
    return {
        "count": count,
        "dimension": dimension,
        "trace": trace,
        "semantic": 2 * trace if p is None else semantic_memorization(p, z) / count,
        "gaussian": [_gaussian(p, z, epsilon, seed) for epsilon in scaled] if p is not None and regular else None,
        "labellings": {
            name: _labelling(z, labels, p if regular else None, scaled) for name, labels in labellings.items()
        },
    }


def _gaussian(p: Gaussian, z: NDArray[np.float64], epsilon: float, seed: int) -> dict[str, Any]:
    samples = p.draw(MONTE_CARLO, seed)
    estimate = point_memorization_of_samples(samples, p.log_density(samples), z, epsilon)
    derivative = theorem_1(p.covariance, epsilon)
    return {
        "epsilon": epsilon,
        "point": point_memorization(p, z, epsilon) / len(z),
        "point_monte_carlo": estimate.value / len(z),
        "point_error": estimate.error / len(z),
        "derivative": derivative._asdict(),
        "derivative_numerical": numerical_derivative(p, z, epsilon, np.eye(p.dimension)),
    }


def _labelling(
    z: NDArray[np.float64], labels: NDArray[np.int64], p: Gaussian | None, epsilons: list[float]
) -> dict[str, Any]:
    found = label_effects(z, labels)
    return {
        "classes": len(found.labels),
        "mean_trace": found.mean_trace,
        "explained": found.explained,
        "pooled_ratio": found.pooled_ratio,
        "mean_ratio": found.mean_ratio,
        "finite_ratios": None if p is None else _finite_ratios(z, labels, found, p, epsilons),
        "labels": [
            {
                "label": each.label,
                "count": each.count,
                "own_scatter": each.own_scatter,
                "overall_scatter": each.overall_scatter,
                "trace": each.trace,
                "ratio": each.ratio,
                "eq_7": each.tighter,
                "eq_8": each.narrower(found.trace),
                "theorem_2": each.memorizes_more,
            }
            for each in found.labels
        ],
    }


def _finite_ratios(
    z: NDArray[np.float64], labels: NDArray[np.int64], found: LabelledLatents, p: Gaussian, epsilons: list[float]
) -> list[dict[str, float]] | None:
    """Eq. 9 before its limit, numerator and denominator summed over the labels; None if some Σ_c is singular."""
    parts = [(z[labels == each.label], Gaussian.fit(z[labels == each.label])) for each in found.labels]
    if not all(math.isfinite(own.log_determinant()) for _, own in parts):
        return None
    ratios = []
    for epsilon in epsilons:
        above = sum(point_memorization(own, points, epsilon) for points, own in parts)
        below = sum(point_memorization(p, points, epsilon) for points, _ in parts)
        ratios.append({"epsilon": epsilon, "ratio": above / below})
    return ratios
