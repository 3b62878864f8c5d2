"""The interface of a similarity: features to search in, and the value that is reported."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from side_ray.config.base import Section
from side_ray.search import Metric, Neighbors
from side_ray.similarity.weights import digest

Images = np.ndarray | Sequence[np.ndarray]
"""[N, H, W, C], or N arrays [H, W, C] of any sizes, uint8 or (of 16 bits) float32 in 0 … 255; C is 1 (gray), 2 (gray, alpha),
3 (RGB) or 4 (RGBA)."""
Presets = Mapping[str, Mapping[str, tuple[float | None, float | None]]]
"""By the preset's name, by the band's name: (from, to), where None is an open end."""


class Similarity(ABC):
    """A further similarity is one subclass, registered in `SIMILARITIES`."""

    Options: ClassVar[type[Section]] = Section
    """The keys that the similarity adds to section `score`. Give each with `omitted_by_default`."""
    shared_options: ClassVar[bool] = False
    """Whether its keys are also allowed with another similarity, because something else reads them."""

    name: str
    """Its registered name."""
    display_name: ClassVar[str]
    """Its name in the report."""
    larger_is_closer: ClassVar[bool]
    metric: Metric
    """How the search compares features."""
    presets: ClassVar[Presets] = {}
    """Bands that `score.bands` can name."""
    default_preset: ClassVar[str | None] = None
    """The preset without `score.bands`; None = the user has to give bands."""
    stores_features: ClassVar[bool] = False
    """Whether `embed` takes so long that features are stored, and every image is embedded once."""
    uses_gpu: ClassVar[bool] = False
    """Whether `embed` runs on a GPU where there is one."""
    pixel_distances: ClassVar[bool] = False
    """Whether the values of one sample are proportional to L2 distances between pixels."""
    neighbors: int = 1
    """How many nearest training images a value needs."""

    path_keys: ClassVar[frozenset[str]] = frozenset()
    """Those of its keys that are paths of weights, whose content the values depend on."""
    unhashed_keys: ClassVar[frozenset[str]] = frozenset()
    """Those that change no value, and are in no fingerprint."""

    @classmethod  # noqa: B027 (most need no check)
    def check_section(cls, section: Any) -> None:
        """Raise ValueError (`score.key: message`) for values of the `ScoreSection` that do not go together."""

    @classmethod
    def digest(cls, path: str) -> str:
        """SHA-256 of what values depend on at a path of `path_keys`. Raises OSError or UserError."""
        return digest(Path(path))

    @classmethod
    @abstractmethod
    def from_config(cls, score: Any) -> Self:
        """The similarity with the settings of a `ScoreSection`; `score.options(cls.Options)` are its own.

        Raises:
            UserError: its weights cannot be loaded.
        """

    @classmethod
    @abstractmethod
    def dimension(cls, shape: tuple[int, int, int]) -> int:
        """Length of the features of images of `shape` (H, W, C), at least roughly: memory is planned with it."""

    @abstractmethod
    def params(self) -> dict[str, Any]:
        """What the values depend on, JSON-able; it is part of every result."""

    @abstractmethod
    def embed(self, images: Images) -> np.ndarray:
        """Features float32 [N, d] of images.

        Raises:
            UserError: the similarity cannot compare these images.
        """

    @abstractmethod
    def values(self, neighbors: Neighbors) -> np.ndarray:
        """float32 [Q, k], the similarity values of neighbours merged over the whole training set."""

    @classmethod
    def explain(cls, params: Mapping[str, Any]) -> str:
        """How to read its values, for the report; "" for nothing to say.

        Args:
            params: `similarity` of metrics.json, which includes those of `params`.
        """
        return ""

    def denominator(self, neighbors: Neighbors) -> np.ndarray | None:
        """float64 [Q]: value = distance / denominator for every training image; None where the distance is the value."""
        return None

    def complete_below(self, neighbors: Neighbors, train_size: int) -> float | None:
        """The value below which every training image is among `neighbors`; None where that is not known.

        Args:
            train_size: number of training images, duplicates that count as one counted once.
        """
        return None


class EncoderSimilarity(Similarity):
    """Cosine similarity of the unit vectors of an image encoder, larger is closer."""

    larger_is_closer = True
    metric: Metric = "ip"
    stores_features = True
    uses_gpu = True
    encoder: Any
    """An `encoder.ImageEncoder`; that module imports torch."""

    def embed(self, images: Images) -> np.ndarray:
        """Unit vectors float32 [N, d]; gray becomes RGB, an alpha channel is dropped."""
        found: np.ndarray = self.encoder.embed(images)
        return found

    def values(self, neighbors: Neighbors) -> np.ndarray:
        return neighbors.values.astype(np.float32)
