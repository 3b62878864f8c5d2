"""Similarities γ between images: features to search in, and the value that is reported."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from side_ray.search import Metric, Neighbors

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
