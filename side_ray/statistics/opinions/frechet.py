"""The Fréchet distance of descriptors, and the weight that memorization has in it: Bai et al., "On Training Sample Memorization"
(KDD 2021, arXiv 2106.03062).

Bai's MiFID takes Inception features. Of other descriptors it is another number, which is why it is not called so here.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

THRESHOLD = 0.1
"""Mean cosine distance below which samples count as memorized: that of Bai et al., set for Inception features."""
EPSILON = 1e-15


@dataclass(frozen=True)
class Moments:
    """Mean float64 [d] and covariance float64 [d, d] (divided by n − 1) of n descriptors."""

    n: int
    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, pieces: Iterable[np.ndarray]) -> "Moments":
        """The moments of descriptors float32 [N, d] that come in pieces. Raises ValueError for fewer than two."""
        n, total, squares = 0, np.zeros(1), np.zeros((1, 1))
        for piece in pieces:
            each = piece.astype(np.float64)
            n, total, squares = n + len(each), total + each.sum(axis=0), squares + each.T @ each
        if n < 2:
            raise ValueError(f"a covariance takes two descriptors or more, not {n}")
        mean = total / n
        return cls(n, mean, (squares - n * np.outer(mean, mean)) / (n - 1))


def frechet_distance(one: Moments, other: Moments) -> float:
    """‖μ₁ − μ₂‖² + Tr(C₁ + C₂ − 2·(C₁C₂)^½), the squared Fréchet distance of two Gaussians."""
    values, vectors = np.linalg.eigh(one.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    # C₁^½·C₂·C₁^½ has the eigenvalues of C₁C₂, and is symmetric.
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other.covariance @ root), 0)).sum()
    apart = ((one.mean - other.mean) ** 2).sum() + np.trace(one.covariance) + np.trace(other.covariance)
    return max(0.0, float(apart - 2 * shared))


def memorization_informed(distance: float, nearest: float) -> float:
    """The Fréchet distance, divided by the mean cosine distance to the nearest training image where this is below `THRESHOLD`.

    Args:
        distance: the Fréchet distance between samples and training images.
        nearest: mean over the samples of 1 − cosine with the nearest training image.
    """
    return distance / (nearest + EPSILON) if nearest < THRESHOLD else distance
