"""The normalized L2 distance of Carlini et al. (2023)."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from side_ray.errors import UserError
from side_ray.search import Metric, Neighbors, normalize
from side_ray.similarity.base import Images, Presets, Similarity


class Nl2(Similarity):
    """Normalized L2 distance of pixel values: d / (α · mean of the n smallest d), smaller is closer.

    The mean includes the nearest image. Duplicates count as one image (`duplicates`), or the mean would be small. The value
    does not depend on the scale of the pixels, and that of the nearest image never exceeds 1/α.
    """

    name = "nl2"
    larger_is_closer = False
    metric: Metric = "l2"
    display_name = "nL2"
    pixel_distances = True
    presets: ClassVar[Presets] = {
        # The paper prints the bands of `paper`, but only these cumulative cuts can give its CIFAR-10 table.
        "cumulative": {"low": (1.4, 1.5), "mid": (1.35, 1.4), "high": (None, 1.35)},
        "paper": {"low": (1.5, 10.0), "mid": (1.4, 1.5), "high": (1.35, 1.4)},
    }
    default_preset = "cumulative"

    def __init__(self, alpha: float = 0.5, n: int = 50) -> None:
        if not alpha > 0 or n < 1:
            raise UserError(f"nl2 needs alpha > 0 and n ≥ 1, not {alpha} and {n}", "score")
        self.alpha = alpha
        self.neighbors = n

    @classmethod
    def from_config(cls, score: Any) -> Self:
        return cls()

    @classmethod
    def dimension(cls, shape: tuple[int, int, int]) -> int:
        return math.prod(shape)

    def params(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "n": self.neighbors}

    @classmethod
    def explain(cls, params: Mapping[str, Any]) -> str:
        alpha = params.get("alpha", 0.5)
        return (
            f"Carlini's normalized distance: the distance to a training image, divided by {alpha:g} times the mean distance to "
            f"the {params.get('n', 50)} nearest. 0 is an exact copy; the nearest image is never above {1 / alpha:g}. The cuts "
            "printed in the paper (1.5, 1.4, 1.35) are for CIFAR-10's 3,072 dimensions. In 64 dimensions nearly every sample "
            "meets them, against unseen images too. Where the held-out column is high, a band says nothing about memorization, "
            "and only the calibrated cut does. Read as bands, the paper's edges cannot give its own CIFAR-10 table; read as "
            "cumulative cuts they can, so cumulative cuts are the default."
        )

    def embed(self, images: Images) -> np.ndarray:
        """Flattened pixel values 0 … 255, exact in float32."""
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            sizes = ", ".join("×".join(map(str, shape)) for shape in sorted(shapes)[:3])
            raise UserError(
                f"nl2 compares images of one size; these are {sizes}; resize them or use score.similarity sscd"
            )
        array = np.asarray(images)
        return array.reshape(len(array), -1).astype(np.float32)

    def denominator(self, neighbors: Neighbors) -> np.ndarray:
        """α · mean of the n nearest distances, or of all where the training set has fewer than n images."""
        # Contiguous, so that the order of summation depends on n alone.
        return self.alpha * np.ascontiguousarray(neighbors.values[:, : self.neighbors]).mean(axis=1)

    def values(self, neighbors: Neighbors) -> np.ndarray:
        return normalize(neighbors.values, self.denominator(neighbors)[:, None])

    def complete_below(self, neighbors: Neighbors, train_size: int) -> float | None:
        """1/α: an image with a smaller value is closer than the mean of the n nearest, and the n-th nearest is not."""
        k = neighbors.ids.shape[1]
        if k >= train_size:
            return np.inf
        return 1 / self.alpha if k >= self.neighbors else None
