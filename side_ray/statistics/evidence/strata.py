"""Strata: kinds of images, so that like is compared with like.

Clusters are learnt on generated images alone, and members, unseen images and samples are assigned by one rule, the nearest
centroid; where members and unseen images have labels, classes divide the clusters of images further. So nothing about a stratum
knows which images are members, and within it members and unseen images stay exchangeable.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.cluster.vq import kmeans2

from side_ray.statistics.evidence.decoys import Entrants

MOST = 8
LEAST_IMAGES = 50
"""Images of the pool that a stratum holds on average, at least."""
LEAST_EXPECTED = 5
"""A stratum has a cut of its own at a rate where so many of its unseen images are expected within it."""
LOOSEST_RATE = 0.01
SEED = 0
UNLIKE = 1e-3
"""A class is no stratum if its share of members has a smaller probability."""


@dataclass(frozen=True)
class Strata:
    """Centroids, each with its stratum; strata that few images of the pool fall into are merged."""

    centroids: np.ndarray
    """float32 [K, d], of features."""
    stratum: np.ndarray
    """int64 [K], 0 … S − 1."""

    def assign(self, features: np.ndarray) -> np.ndarray:
        """int64 [N], the stratum of each image, from its features float32 [N, d]."""
        return self.stratum[_nearest(features, self.centroids)]


def learn(features: np.ndarray, pool_size: int) -> Strata:
    """K-means of generated images: at most eight strata, fewer where the pool is small.

    Args:
        features: float32 [N, d] of generated images.
        pool_size: members and unseen images together.
    """
    wanted = min(MOST, max(1, pool_size // LEAST_IMAGES), len(np.unique(features, axis=0)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an empty cluster is left out below
        centroids, assigned = kmeans2(features.astype(np.float64), wanted, iter=30, minit="++", seed=SEED)
    kept = np.bincount(assigned, minlength=wanted) > 0
    return Strata(centroids[kept].astype(np.float32), np.arange(int(kept.sum())))


def merge_small(strata: Strata, features_strata: np.ndarray) -> Strata:
    """Merge a stratum with fewer than half of `LEAST_IMAGES` images of the pool into the one whose centroid is nearest.

    Args:
        strata: with one stratum for each centroid.
        features_strata: int64, the stratum of every image of the pool, members and unseen images alike.
    """
    sizes = np.bincount(features_strata, minlength=len(strata.centroids)).astype(float)
    stratum = np.arange(len(strata.centroids))
    centres = strata.centroids.astype(np.float64)
    between = ((centres[:, None] - centres[None]) ** 2).sum(2)
    while len(set(stratum.tolist())) > 1:
        names = np.unique(stratum)
        totals = np.array([sizes[stratum == name].sum() for name in names])
        smallest = names[totals.argmin()]
        if totals.min() >= LEAST_IMAGES / 2:
            break
        mine, others = np.flatnonzero(stratum == smallest), np.flatnonzero(stratum != smallest)
        target = others[between[np.ix_(mine, others)].min(axis=0).argmin()]
        stratum[mine] = stratum[target]
    return Strata(strata.centroids, np.unique(stratum, return_inverse=True)[1].astype(np.int64))


def split_by_class(stratum: np.ndarray, labels: np.ndarray, is_member: np.ndarray) -> np.ndarray:
    """Split strata by the classes of the images, where a class is large enough in a stratum to stand alone.

    What remains of a stratum stays together, or joins the largest class where it is small. A class that holds a share of members
    which chance does not explain, as where only members have labels, stays in the remainder too.

    Args:
        stratum: int64 [P], of every image of the pool.
        labels: int64 [P], −1 for an image without a label.
        is_member: bool [P].

    Returns:
        int64 [P], from 0.
    """
    share, found = float(is_member.mean()), np.full(stratum.size, -1)
    for number in np.unique(stratum):
        mine = stratum == number
        cells = []
        for label in np.unique(labels[mine & (labels >= 0)]):
            cell = mine & (labels == label)
            size = int(cell.sum())
            if (
                size >= LEAST_IMAGES / 2
                and stats.binomtest(int((cell & is_member).sum()), size, share).pvalue >= UNLIKE
            ):
                cells.append(cell)
        rest = mine & ~np.logical_or.reduce(cells, initial=False)
        if cells and rest.sum() < LEAST_IMAGES / 2:
            largest = max(range(len(cells)), key=lambda i: cells[i].sum())
            cells[largest] = cells[largest] | rest
        else:
            cells.append(rest)
        for cell in cells:
            found[cell] = found.max() + 1
    return found


def _nearest(features: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    points, centres = features.astype(np.float64), centroids.astype(np.float64)
    return np.asarray(((centres**2).sum(1) - 2 * points @ centres.T).argmin(axis=1))


def stratum_cuts(pool: Entrants, rate: float, overall: float) -> tuple[np.ndarray, float | None]:
    """The cut of each stratum: the closeness that a share `rate` of its unseen images is won with.

    An image's p-value is (1 + unseen images of its stratum that score at least as well) / (1 + n_s); the cut is where it comes to
    the rate. It takes n_s · rate ≥ 5 in every stratum; otherwise the rate rises to 1 %, and where that is too few as well every
    stratum has the overall cut.

    Args:
        rate: the wanted rate.
        overall: closeness at the calibrated cut, float32.

    Returns:
        float64 [S] by stratum number, and the rate; None where the cuts are the overall one.
    """
    numbers = range(int(pool.stratum.max(initial=0)) + 1)
    unseen = [np.sort(pool.score[~pool.is_member & (pool.stratum == number)])[::-1] for number in numbers]
    for each in dict.fromkeys((rate, max(rate, LOOSEST_RATE))):
        if len(unseen) > 1 and min(scores.size for scores in unseen) * each >= LEAST_EXPECTED:
            # The next-best one is outside: (1 + count) / (1 + n) stays at the rate or below.
            outside = [scores[int(each * (1 + scores.size)) - 1] for scores in unseen]
            return np.array([np.nextafter(value, np.inf) for value in outside]), each
    return np.full(len(unseen), overall), None
