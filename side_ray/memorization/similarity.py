"""Similarities γ between images: features to search in, and the value that is reported."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from side_ray.errors import UserError
from side_ray.memorization.neighbors import Metric, Neighbors

Images = np.ndarray | Sequence[np.ndarray]
"""uint8 [N, H, W, C], or N arrays uint8 [H, W, C] of any sizes; C is 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGBA)."""


class Similarity(ABC):
    """A further encoder is one subclass with `embed` and `params`, registered in `SIMILARITIES`."""

    name: str
    larger_is_closer: bool
    metric: Metric
    neighbors = 1
    """How many nearest training images a value needs."""

    @abstractmethod
    def params(self) -> dict[str, Any]:
        """What the values depend on, JSON-able; goes into every result and every fingerprint."""

    @abstractmethod
    def embed(self, images: Images) -> np.ndarray:
        """Features float32 [N, d] of images.

        Raises:
            UserError: images that the similarity cannot compare.
        """

    @abstractmethod
    def values(self, neighbors: Neighbors) -> np.ndarray:
        """float32 [Q, k], the similarity values of neighbours merged over the whole training set."""

    def unit(self, neighbors: Neighbors) -> np.ndarray | None:
        """float64 [Q]: value = distance / unit for every training image, or None where the distance is the value."""
        return None

    def complete_below(self, neighbors: Neighbors, train_size: int) -> float | None:
        """The value below which every training image is among `neighbors`; None where that cannot be said."""
        return None


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


def normalize(distances: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """float32 distance / unit; an exact copy is 0 also where all n nearest are copies and the unit is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(distances == 0, 0.0, distances / unit).astype(np.float32)


def nl2_values(distances: np.ndarray, alpha: float = 0.5, n: int = 50) -> np.ndarray:
    """Normalized L2 of sorted distances float64 [Q, k ≥ min(n, training set)] → float32 [Q, k]; see `Nl2`."""
    return Nl2(alpha, n).values(Neighbors(np.zeros(distances.shape, np.int64), distances))


def _sscd(**params: Any) -> Similarity:
    from side_ray.memorization.sscd import Sscd

    return Sscd(**params)


SIMILARITIES: dict[str, Callable[..., Similarity]] = {"nl2": Nl2, "sscd": _sscd}


def make_similarity(name: str, **params: Any) -> Similarity:
    """The similarity `name` with its parameters: nl2 (`alpha`, `n`), sscd (`checkpoint`, `policy`, `device`, `batch_size`).

    Raises:
        UserError: an unknown name, or parameters that it does not take.
    """
    if name not in SIMILARITIES:
        raise UserError(f"score.similarity: {name!r} is unknown; use one of {', '.join(SIMILARITIES)}")
    try:
        return SIMILARITIES[name](**params)
    except TypeError as error:
        raise UserError(f"score.similarity {name}: {error}; check its parameters") from None
