"""Excess: the share of samples that match members, minus the share that match as many images that the model never saw.

Both shares are taken at one cut and with one normalizer (`pool`). The unseen share is the mean over all blocks of m of the d
unseen images, since the nearest of more images is nearer: a sample with u unseen images within the cut matches a random block
with probability 1 − C(d − u, m) / C(d, m). With d < m it is the share of all d times m / d, which is never too small.

The variance has two parts. The samples vary: the variance of the paired difference over N. And the images vary: a delete-a-group
jackknife over members and over unseen images (Kott 2001). A sample whose match is deleted goes to its next neighbour; hits of
members are a total over images, so a replicate is scaled up to m images again. Few images with many hits make the total skewed,
so the interval is that of Hall (1992, "On the removal of skewness by transformation"), with the third moments of these parts.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special, stats

from side_ray.statistics.evidence.pool import Competition, PoolShape
from side_ray.statistics.intervals import clopper_pearson

MOST_FOLDS = 100


@dataclass(frozen=True)
class Excess:
    """The excess of one condition, with what a paired comparison needs."""

    value: float
    member_share: float
    unseen_share: float
    ci: tuple[float, float]
    """95 %."""
    samples: np.ndarray
    """float64 [N], each sample's member hit minus its probability of an unseen hit."""
    folds: np.ndarray
    """float64 [2, F], the share without each fold of members, and without each fold of unseen images."""

    @property
    def established(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.ci[0] > 0


@dataclass(frozen=True)
class Difference:
    """The excess of one condition minus that of another with the same noise."""

    difference: float
    ci: tuple[float, float]
    p_value: float
    """Two-sided."""

    def as_dict(self) -> dict[str, Any]:
        """As in metrics.json."""
        return {"difference": self.difference, "ci": list(self.ci), "p_value": self.p_value}


def excess(found: Competition, shape: PoolShape) -> Excess:
    """The excess of one condition, and its 95 % interval."""
    n, of_member = found.size, shape.is_member[found.images]
    folds, sizes = folds_of(shape)
    m, d = int(sizes[0].sum()), int(sizes[1].sum())
    hit, member_folds = _member_side(found.rows[of_member], folds[found.images[of_member]], n, sizes[0], m)
    chance, unseen_folds = _unseen_side(found.rows[~of_member], folds[found.images[~of_member]], n, sizes[1], m, d)
    samples = hit - chance
    pair = np.stack([member_folds, unseen_folds])
    value = float(samples.mean())
    low, high = _interval(value, *_moments(samples, pair))
    # Without a single hit nothing varies, and the share may still be positive.
    most = clopper_pearson(0, n)[1]
    low, high = (low if chance.any() else min(low, value)), high
    if not hit.any():
        high = max(high, most)
    if not chance.any() and not hit.any():
        low = -most
    return Excess(value, float(hit.mean()), float(chance.mean()), (low, high), samples, pair)


def compare(a: Excess, b: Excess) -> Difference:
    """The paired difference a − b of two conditions whose samples share their noise, one by one."""
    samples, folds = a.samples - b.samples, a.folds - b.folds
    value = float(samples.mean())
    deviation, skewness, freedom = _moments(samples, folds)
    p_value = float(2 * stats.t.sf(abs(value) / deviation, freedom)) if deviation else 1.0
    return Difference(value, _interval(value, deviation, skewness, freedom), p_value)


def _moments(samples: np.ndarray, folds: np.ndarray) -> tuple[float, float, float]:
    """Standard deviation and skewness of the excess, and the degrees of freedom of its variance (Satterthwaite)."""
    n, count = samples.size, folds.shape[1]
    away = [samples - samples.mean(), *(side - side.mean() for side in folds)]
    variances = [float((away[0] ** 2).sum()) / (n * max(n - 1, 1))]
    variances += [(count - 1) / count * float((side**2).sum()) for side in away[1:]]
    # Without a fold of images with many hits the share is small; unseen images count against the excess.
    thirds = [float((away[0] ** 3).sum()) / n**3]
    thirds += [
        sign * ((count - 1) / count) ** 3 * float((side**3).sum()) for sign, side in zip((-1, 1), away[1:], strict=True)
    ]
    total = sum(variances)
    freedoms = [max(n - 1, 1), *([count - 1] * len(folds))]
    below = sum(part**2 / freedom for part, freedom in zip(variances, freedoms, strict=True))
    return float(np.sqrt(total)), sum(thirds) / total**1.5 if total else 0.0, total**2 / below if below else float(n)


def _interval(value: float, deviation: float, skewness: float, freedom: float) -> tuple[float, float]:
    quantiles = stats.t.ppf([0.975, 0.025], freedom)
    if abs(skewness) > 1e-6:
        quantiles = 3 / skewness * (np.cbrt(1 + skewness * (quantiles - skewness / 6)) - 1)
    low, high = value - quantiles * deviation
    return float(low), float(high)


def folds_of(shape: PoolShape, most: int = MOST_FOLDS) -> tuple[np.ndarray, list[np.ndarray]]:
    """The fold of each image, int64 [m + d], and the images in each fold of members and of unseen images, int64 [F] each.

    Duplicates are one image. The images of each side are dealt out evenly.
    """
    count = max(2, min(most, shape.members, shape.unseen))
    rng, folds, sizes = np.random.default_rng(0), [], []
    for side in (shape.group[: shape.members], shape.group[shape.members :]):
        numbers, inverse = np.unique(side, return_inverse=True)
        dealt = rng.permutation(numbers.size) % count
        folds.append(dealt[inverse])
        sizes.append(np.bincount(dealt, minlength=count))
    return np.concatenate(folds), sizes


def _member_side(
    rows: np.ndarray, folds: np.ndarray, n: int, sizes: np.ndarray, m: int
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each sample hits a member, float64 [N], and the share of hits without each fold."""
    hit = np.zeros(n)
    hit[rows] = 1.0
    # A sample is lost with a fold if all members that it hits are in it.
    lowest, highest = np.full(n, sizes.size), np.full(n, -1)
    np.minimum.at(lowest, rows, folds)
    np.maximum.at(highest, rows, folds)
    lost = np.bincount(lowest[(lowest == highest)], minlength=sizes.size)[: sizes.size]
    return hit, (hit.sum() - lost) / n * m / np.maximum(m - sizes, 1)


def _unseen_side(
    rows: np.ndarray, folds: np.ndarray, n: int, sizes: np.ndarray, m: int, d: int
) -> tuple[np.ndarray, np.ndarray]:
    """Each sample's probability to hit a random block of m unseen images, float64 [N], and the share without each fold."""
    within = np.bincount(rows, minlength=n)
    most = int(within.max(initial=0))
    chance = block(most, m, d)[within]
    pairs, count = np.unique(rows * sizes.size + folds, return_counts=True)
    row, fold = np.divmod(pairs, sizes.size)
    histogram = np.bincount(within, minlength=most + 1)
    shares = []
    for number, size in enumerate(sizes):
        table, mine = block(most, m, d - int(size)), fold == number
        change = table[within[row[mine]] - count[mine]] - table[within[row[mine]]]
        shares.append((histogram @ table + change.sum()) / n)
    return chance, np.array(shares)


def block(most: int, m: int, d: int) -> np.ndarray:
    """float64 [most + 1]: the probability that a random block of m of d images holds one of u given images, u = 0 … most."""
    u = np.arange(most + 1)
    if d <= m:
        return (u > 0) * m / max(d, 1)
    none = u <= d - m
    left = np.where(none, d - u, m)
    log = (
        special.gammaln(left + 1) - special.gammaln(left - m + 1) - special.gammaln(d + 1) + special.gammaln(d - m + 1)
    )
    return np.where(u == 0, 0.0, np.where(none, -np.expm1(np.minimum(log, 0.0)), 1.0))
