"""The class condition of a DPM: the labels that it is trained with, and the class that each sample is drawn with."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from side_ray.diffusion.files import read_json
from side_ray.errors import UserError

FILE = "condition.json"
Kind = Literal["none", "labels", "random", "unique"]


def condition_labels(
    kind: Kind, own: NDArray[np.int64] | None, images: int, classes: int, seed: int
) -> NDArray[np.int64] | None:
    """The class that each training image is shown with, int64 [images]; None for `none`.

    Args:
        kind: `labels` are the images' own; `random` are independent of the images, with class sizes that differ by at most one;
            `unique` gives each image a class of its own.
        own: int64 [images], -1 = no label; None where the data set has none.
        classes: classes of `random`.

    Raises:
        UserError: `labels`, but an image has none; or `random` with fewer than 2 classes or more classes than images.
    """
    if kind == "none":
        return None
    if kind == "unique":
        return np.arange(images, dtype=np.int64)
    if kind == "random":
        if not 2 <= classes <= images:
            raise UserError(f"dpm.condition_classes: {classes} classes for {images} images; give 2 to {images}")
        return np.random.default_rng([seed, 5]).permutation(images).astype(np.int64) % classes
    if own is None or (own < 0).any():
        missing = images if own is None else int((own < 0).sum())
        raise UserError(
            f"dpm.condition: labels, but {missing:,} of {images:,} training images have none; use random or unique, or "
            "leave those images out"
        )
    return own


def drawn_of(seed: int, what: str, count: int) -> int:
    """A number in 0 … count−1 that a sample's seed determines, another and independent one for each `what`."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{what}".encode()).digest()[:8], "big") % count


@dataclass(frozen=True)
class Condition:
    """How many training images each class has. Samples are drawn with classes in the same proportion.

    Args:
        counts: images of each class, every one ≥ 0, not all 0.
    """

    counts: tuple[int, ...]

    @classmethod
    def of_labels(cls, labels: NDArray[np.int64]) -> Self:
        return cls(tuple(np.bincount(labels).tolist()))

    @classmethod
    def uniform(cls, classes: int) -> Self:
        return cls((1,) * classes)

    @classmethod
    def only(cls, chosen: int, classes: int) -> Self:
        """One class alone."""
        return cls(tuple(int(each == chosen) for each in range(classes)))

    def without(self, null: int) -> Self:
        """The same, one class never; all others equally often where that is the only one."""
        counts = [0 if each == null else count for each, count in enumerate(self.counts)]
        return type(self)(tuple(counts if any(counts) else [int(each != null) for each in range(len(counts))]))

    def classes_of(self, seeds: list[int]) -> NDArray[np.int64]:
        """The class of each sample, int64 [len(seeds)], a function of its seed alone and independent of its guidance target."""
        ends = np.cumsum(self.counts)
        places = np.array([drawn_of(seed, "class", int(ends[-1])) for seed in seeds], np.int64)
        return np.searchsorted(ends, places, side="right").astype(np.int64)

    def save(self, directory: Path) -> None:
        (directory / FILE).write_text(json.dumps({"counts": list(self.counts)}) + "\n")

    @classmethod
    def load(cls, directory: Path, classes: int) -> Self:
        """Read what `save` wrote. Without the file, as in an imported model, all classes are equally frequent.

        Raises:
            UserError: the file does not give one count for each of the model's classes.
        """
        path = directory / FILE
        if not path.exists():
            return cls.uniform(classes)
        counts: Any = read_json(path).get("counts")
        whole = isinstance(counts, list) and all(isinstance(each, int) and each >= 0 for each in counts)
        if not whole or len(counts) != classes or not any(counts):
            raise UserError(f"{path} must give `counts`, how often each of the model's {classes} classes was seen")
        return cls(tuple(counts))
