"""Carlini's normalized L2 distance."""

from typing import Any

import numpy as np

from side_ray.errors import UserError
from side_ray.search import Metric, Neighbors, normalize
from side_ray.similarity.base import Images, Similarity


class Nl2(Similarity):
    """Carlini's normalized L2 distance of pixel values: d / (α · mean of the n smallest d), smaller is closer.

    The nearest image is in the mean. The value is free of scale; the nearest one's never exceeds 1/α.
    """

    name = "nl2"
    larger_is_closer = False
    metric: Metric = "l2"

    def __init__(self, alpha: float = 0.5, n: int = 50) -> None:
        if not alpha > 0 or n < 1:
            raise UserError(f"score: nl2 needs alpha > 0 and n ≥ 1, not {alpha} and {n}")
        self.alpha = alpha
        self.neighbors = n

    def params(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "n": self.neighbors}

    def embed(self, images: Images) -> np.ndarray:
        """Flattened pixel values 0 … 255, exact in float32."""
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            sizes = ", ".join("×".join(map(str, shape)) for shape in sorted(shapes)[:3])
            raise UserError(
                f"nl2 compares images of one size; these are {sizes}; resize them or use score.similarity sscd"
            )
        array = np.asarray(images, np.uint8)
        return array.reshape(len(array), -1).astype(np.float32)

    def unit(self, neighbors: Neighbors) -> np.ndarray:
        """α · mean of the n nearest distances, of all of them where the training set has fewer than n."""
        # Contiguous, so that the order of summation depends on nothing but n.
        return self.alpha * np.ascontiguousarray(neighbors.values[:, : self.neighbors]).mean(axis=1)

    def values(self, neighbors: Neighbors) -> np.ndarray:
        return normalize(neighbors.values, self.unit(neighbors)[:, None])

    def complete_below(self, neighbors: Neighbors, train_size: int) -> float | None:
        """1/α: a closer image is closer than the mean, which the n-th nearest is not."""
        k = neighbors.ids.shape[1]
        if k >= train_size:
            return np.inf
        return 1 / self.alpha if k >= self.neighbors else None


def nl2_values(distances: np.ndarray, alpha: float = 0.5, n: int = 50) -> np.ndarray:
    """Normalized L2 of sorted distances float64 [Q, k ≥ min(n, training set)] → float32 [Q, k]; see `Nl2`."""
    return Nl2(alpha, n).values(Neighbors(np.zeros(distances.shape, np.int64), distances))
