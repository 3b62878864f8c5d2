"""One pool of members and unseen images: who is nearest to each sample, and who is within the cut.

An image of the pool has one number: members 0 … m − 1, then the unseen images m … m + d − 1 (those of `calibration`, then those
of `holdout`). Distances are normalized by the nearest images of the whole pool, so a member and an unseen image are
exchangeable wherever the model knows neither.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from side_ray.search import Neighbors, closeness_of
from side_ray.similarity.base import Similarity


@dataclass(frozen=True)
class PoolShape:
    """The images of a pool."""

    members: int
    unseen: int
    group: np.ndarray
    """int64 [m + d], duplicates share a number; `arange` where every image is its own group."""
    stratum: np.ndarray
    """int64 [m + d], the kind of image, from 0; zeros where there is one kind only."""
    typical: np.ndarray
    """float64 [m + d], the closeness of each image's nearest other image of the pool, as a sample that equals it would be told if
    the image itself were not there; zeros where it is not known."""

    @classmethod
    def plain(cls, members: int, unseen: int) -> "PoolShape":
        """Images without duplicates, of one kind."""
        size = members + unseen
        return cls(members, unseen, np.arange(size), np.zeros(size, np.int64), np.zeros(size))

    @property
    def is_member(self) -> np.ndarray:
        """bool [m + d]."""
        return np.arange(self.members + self.unseen) < self.members


@dataclass(frozen=True)
class Competition:
    """What the samples of one condition say about the pool; N samples, P pairs of a sample and an image within the cut."""

    winner: np.ndarray
    """int64 [N], the nearest image of the pool."""
    closeness: np.ndarray
    """float32 [N], its value, negated where smaller is closer."""
    rows: np.ndarray
    """int64 [P], sample (row) of a pair within the cut."""
    images: np.ndarray
    """int64 [P], image of that pair."""
    values: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    """float32 [P], its closeness; empty where it is not kept."""

    def within(self, closeness: float) -> "Competition":
        """The same with only those pairs that are at least so close."""
        kept = self.values >= np.float32(closeness)
        return replace(self, rows=self.rows[kept], images=self.images[kept], values=self.values[kept])

    def first(self, n: int) -> "Competition":
        """The competition for the first n samples."""
        kept = self.rows < n
        values = self.values[kept] if self.values.size else self.values
        return Competition(self.winner[:n], self.closeness[:n], self.rows[kept], self.images[kept], values)

    @property
    def size(self) -> int:
        """Number of samples."""
        return int(self.winner.size)

    @classmethod
    def join(cls, parts: Sequence["Competition"]) -> "Competition":
        """The samples of several shards as one condition."""
        starts = np.cumsum([0, *(part.size for part in parts)])
        return cls(
            np.concatenate([part.winner for part in parts]),
            np.concatenate([part.closeness for part in parts]),
            np.concatenate([part.rows + start for part, start in zip(parts, starts[:-1], strict=True)]),
            np.concatenate([part.images for part in parts]),
            np.concatenate([part.values for part in parts]),
        )


def compete(member: Neighbors, unseen: Neighbors, members: int, similarity: Similarity, limit: float) -> Competition:
    """Let members and unseen images compete for each sample.

    Of equally near images one fixed random order decides, because an order by number would always prefer members.

    Args:
        member: the nearest members of N samples: ids, and values in one unit per sample.
        unseen: their nearest unseen images (0 … d − 1), with values in the same unit.
        members: m.
        limit: the closeness that a pair must reach, −∞ for all of them.
    """
    images = np.concatenate([member.ids, unseen.ids + members], axis=1)
    values = np.concatenate([member.values, unseen.values], axis=1).astype(np.float64)
    order = np.lexsort((_shuffled(images), values if similarity.metric == "l2" else -values), axis=-1)
    images = np.take_along_axis(images, order, 1)
    found = similarity.values(Neighbors(images, np.take_along_axis(values, order, 1)))
    closeness = closeness_of(found, similarity.larger_is_closer)
    rows, columns = np.nonzero(closeness >= np.float32(limit))
    return Competition(images[:, 0], closeness[:, 0], rows, images[rows, columns], closeness[rows, columns])


def _shuffled(images: np.ndarray) -> np.ndarray:
    """A fixed pseudo-random number for each image: a finalizer of 64 bits, so that different images have different ones."""
    x = images.astype(np.uint64) + np.uint64(1)
    for shift, factor in ((31, 0x9E3779B97F4A7C15), (29, 0xBF58476D1CE4E5B9)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(32))
