"""Excess: the share of samples that match members, minus the share that match as many images that the model never saw.

Both shares are taken at one cut and with one normalizer (`pool`). The unseen share is the mean over all blocks of m of the d
unseen images, since the nearest of more images is nearer: a sample with u unseen images within the cut matches a random block
with probability 1 − C(d − u, m) / C(d, m). With d < m it is the share of all d times m / d, which is never too small.

Two questions, two estimands:

- `excess`: is the model closer to its members than to other images? Under the null hypothesis members are exchangeable with
  unseen images, so both are samples of one population. The interval counts samples and the images of both sides.
- `compare`: does one condition pull more copies out of *this* model than another? The members are all the images that the claim
  is about, each of them is searched, and what the model knows of them is fixed: no variance belongs to that. What is not fixed is
  resemblance by chance, of samples to unseen images and to as many members. Unseen images tell how it varies. The interval
  counts samples and that.

Variances: the samples' is that of their mean over N. The images' is a delete-a-group jackknife (Kott 2001): a sample whose match
is deleted goes to its next neighbour, and a total over images is scaled up to m images again. Images that are hit at random by
samples differ by the samples' own noise, which both parts contain, so it is taken off once, as with errors that are clustered
in two ways (Cameron, Gelbach & Miller 2011).

A share with a variance V is treated as an overdispersed Poisson count of share²/V, because few images with many matches make it
skewed. Its limits are the mid-P ones: exact limits would cover more than 95 % where next to nothing matches. The upper limit
counts in units of the images with most matches (`Side.jump`), because a share that happens to lack such images has too small a
variance. The limits of two shares give those of their difference (MOVER, Zou & Donner 2008).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special, stats

from side_ray.statistics.evidence.pool import Competition, PoolShape
from side_ray.statistics.intervals import mid_p_limits, poisson_limits

MOST_FOLDS = 100
LEVEL = 0.05
GRID = 2**15
"""Steps of the grid of `exchanged` over the sum of all differences; a multiple of 16 of them, and at least 32, to the unit."""


@dataclass(frozen=True)
class Side:
    """The matches of one condition with members, or with a random block of as many unseen images."""

    share: np.ndarray
    """float64 [N], each sample's match, or its probability of one."""
    within: np.ndarray
    """int64 [N], images of this side within the cut."""
    folds: np.ndarray
    """float64 [F], the share over all samples without each fold of images."""

    def noise(self, samples: np.ndarray | bool = True) -> float:
        """The variance of the single matches of chosen samples (bool [N]), which that of the images contains as well."""
        chosen = samples & (self.within > 0)
        return float((self.share[chosen] ** 2 / self.within[chosen]).sum()) / self.share.size**2

    @property
    def unit(self) -> float:
        """What one independent match adds to the share: its variance over the share, as for a Poisson count; nan without any."""
        share = float(self.share.mean())
        variance = _of_samples(self.share) + max(_of_images(self.folds) - self.noise(), 0.0)
        return variance / share if share else np.nan

    @property
    def jump(self) -> float:
        """What an image with many matches adds to the share: its third cumulant over the second, by the folds, and at least
        `unit`; nan without any match."""
        lost = self.folds.mean() - self.folds
        second = float((lost**2).sum())
        return float(np.fmax(self.unit, (lost**3).sum() / second if second else np.nan))


@dataclass(frozen=True)
class Excess:
    """The excess of one condition, with what a paired comparison needs."""

    value: float
    ci: tuple[float, float]
    """95 %."""
    member: Side
    unseen: Side
    ratio: float
    """m / d."""

    @property
    def samples(self) -> np.ndarray:
        """float64 [N], each sample's member match minus its probability of an unseen match."""
        return self.member.share - self.unseen.share

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
    """The excess of one condition, and its 95 % interval for members that are a sample of the population of images."""
    n, of_member = found.size, shape.is_member[found.images]
    folds, sizes = folds_of(shape)
    m, d = int(sizes[0].sum()), int(sizes[1].sum())
    member = _member_side(found.rows[of_member], folds[found.images[of_member]], n, sizes[0], m)
    unseen = _unseen_side(found.rows[~of_member], folds[found.images[~of_member]], n, sizes[1], m, d)
    matched, chance = float(member.share.mean()), float(unseen.share.mean())
    # An image of either side may be matched as often as one of the other: what has no match yet may have many.
    one = min(1.0, m / d)
    jumps = np.fmax([member.jump, unseen.jump], [unseen.unit / one, member.unit * one])
    jumps = np.fmax(jumps, [1 / n, one / n])
    low, high = _limits(matched, member.unit, jumps[0])
    least, most = _limits(chance, unseen.unit, jumps[1])
    value = matched - chance
    ci = value - float(np.hypot(matched - low, most - chance)), value + float(np.hypot(high - matched, chance - least))
    return Excess(value, ci, member, unseen, m / d)


def compare(a: Excess, b: Excess, paired: bool = True) -> Difference:
    """The difference a − b of two conditions, or of two models with the same members.

    The p-value is that of a t-test with the variance of samples and of chance resemblance, and no smaller than that of
    `exchanged`, which holds however few samples match. Where it is above 5 % the interval holds 0.

    Args:
        paired: whether the samples of both share their noise, one by one.
    """
    if paired:
        samples = a.samples - b.samples
        at_least, variance = exchanged(samples), _of_samples(samples)
        # The samples' own noise is known where one of the two alone matches.
        own = (a.unseen.within > 0) != (b.unseen.within > 0)
        noise = a.unseen.noise(own) + b.unseen.noise(own)
    else:
        at_least, variance = 0.0, _of_samples(a.samples) + _of_samples(b.samples)
        noise = a.unseen.noise() + b.unseen.noise()
    folds = a.unseen.folds - b.unseen.folds
    # Chance varies in the mean over d images, and in a total over m of the same kind.
    times, images = 1 + 1 / a.ratio, _of_images(folds)
    uncertainty = variance**2 / (min(a.samples.size, b.samples.size) - 1 or 1)
    if images > noise:
        variance += times * (images - noise)
        uncertainty += (times * images) ** 2 / (folds.size - 1)
    value = a.value - b.value
    if not variance:
        most = poisson_limits(0)[1] / min(a.samples.size, b.samples.size)
        return Difference(value, (value - most, value + most), 1.0)
    deviation, freedom = float(np.sqrt(variance)), variance**2 / uncertainty
    p_value = max(at_least, float(2 * stats.t.sf(abs(value) / deviation, freedom)))
    half = float(stats.t.isf(LEVEL / 2, freedom)) * deviation
    low, high = value - half, value + half
    return Difference(value, (low, high) if p_value <= LEVEL else (min(low, 0.0), max(high, 0.0)), p_value)


def exchanged(differences: np.ndarray) -> float:
    """The two-sided probability of a sum at least as far from 0 where either condition could have made either sample of a pair.

    Then every difference has either sign with the same probability (Fisher's randomization test), whatever images there are. The
    distribution of the sum is computed whole, with the differences rounded to a fine grid.

    Args:
        differences: float64 [N], by pair.
    """
    sizes = np.abs(differences[np.abs(differences) > 1e-12])
    if not sizes.size:
        return 1.0
    per_unit = 16 * max(int(GRID / 16 / sizes.sum()), 2)
    steps, count = np.unique(np.rint(sizes * per_unit).astype(np.int64), return_counts=True)
    length = 1 << int(2 * (steps * count).sum() + 1).bit_length()
    places = np.arange(length // 2 + 1)
    transform = np.ones(places.size)
    for each, often in zip(steps.tolist(), count.tolist(), strict=True):
        transform *= np.cos(2 * np.pi * (places * each % length) / length) ** often
    chance = np.fft.irfft(transform, length)[: length // 2]
    # Sums that are equal but for rounding count as equal: within three standard deviations of its error.
    farthest = int(np.ceil(abs(differences.sum()) * per_unit - 1.5 * np.sqrt(sizes.size)))
    return float(np.clip(2 * chance[farthest:].sum(), 0.0, 1.0)) if farthest > 0 else 1.0


def _limits(share: float, unit: float, jump: float) -> tuple[float, float]:
    """95 % limits of a share, below in units of its own matches and above in those of the images that it may lack."""
    low = mid_p_limits(share / unit)[0] * unit if share and unit else share
    return low, max(mid_p_limits(share / jump)[1] * jump, share)


def _of_samples(share: np.ndarray) -> float:
    """The variance of a mean over samples."""
    return float(share.var(ddof=1)) / share.size if share.size > 1 else 0.0


def _of_images(folds: np.ndarray) -> float:
    """The delete-a-group jackknife variance of a share."""
    return (1 - 1 / folds.size) * float(((folds - folds.mean()) ** 2).sum())


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


def _member_side(rows: np.ndarray, folds: np.ndarray, n: int, sizes: np.ndarray, m: int) -> Side:
    """Whether each sample hits a member, and the share of hits without each fold."""
    hit = np.zeros(n)
    hit[rows] = 1.0
    # A sample is lost with a fold if all members that it hits are in it.
    lowest, highest = np.full(n, sizes.size), np.full(n, -1)
    np.minimum.at(lowest, rows, folds)
    np.maximum.at(highest, rows, folds)
    lost = np.bincount(lowest[(lowest == highest)], minlength=sizes.size)[: sizes.size]
    return Side(hit, np.bincount(rows, minlength=n), (hit.sum() - lost) / n * m / np.maximum(m - sizes, 1))


def _unseen_side(rows: np.ndarray, folds: np.ndarray, n: int, sizes: np.ndarray, m: int, d: int) -> Side:
    """Each sample's probability to hit a random block of m unseen images, and the share without each fold."""
    within = np.bincount(rows, minlength=n)
    most = int(within.max(initial=0))
    chance = block(most, m, d)[within]
    pairs, count = np.unique(rows * sizes.size + folds, return_counts=True)
    row, fold = np.divmod(pairs, sizes.size)
    # The table of each fold, which depends on its size alone.
    distinct_sizes, kind = np.unique(sizes, return_inverse=True)
    tables = np.stack([block(most, m, d - size) for size in distinct_sizes.tolist()])
    change = tables[kind[fold], within[row] - count] - tables[kind[fold], within[row]]
    shares = (tables @ np.bincount(within, minlength=most + 1))[kind] + np.bincount(fold, change, sizes.size)
    return Side(chance, within, shares / n)


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
