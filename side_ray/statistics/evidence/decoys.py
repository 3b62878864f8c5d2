"""Target–decoy competition on images: which training images do the samples reveal, at which false discovery rate?

Unseen images are decoys: under the null hypothesis the model knows a member no better than an unseen image, so within a stratum
every order of the two is equally likely. An image's score is the closest sample that it wins against the whole pool. With T
members and D decoys that score at least as well,

    FDR = (m / d) · (D + 1) / T

(Elias & Gygi 2007; the + 1 of Barber & Candès 2015 makes it a bound), and an image's q-value is the smallest FDR at which it is
still counted. The unit is the image, not the sample: samples of one image share its fate.

Images of several strata are ranked together by how far they stand out from their own kind: the score less what the images of the
stratum have with each other, the median closeness of an image's nearest other one. That is taken from the images alone, without
looking at who is a member, so the bound holds as it does for one stratum, and there is one test. A stratum where all images are
alike, such as blank ones, then no longer hides the others; nor does it matter whether few or all images of a stratum are copied.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import special

from side_ray.statistics.evidence.pool import Competition, PoolShape

PERMUTATIONS = 9_999


@dataclass(frozen=True)
class Entrants:
    """The groups of the pool that take part: those with members and unseen images alike prove nothing and are left out."""

    score: np.ndarray
    """float64 [G], closeness of the closest sample that the group wins; −inf where it wins none."""
    is_member: np.ndarray
    """bool [G]."""
    stratum: np.ndarray
    """int64 [G]."""
    group: np.ndarray
    """int64 [G], the group's number in the pool."""
    typical: np.ndarray
    """float64 [G], see `PoolShape`."""

    @property
    def ratio(self) -> float:
        """m / d."""
        return float(self.is_member.sum()) / max(int((~self.is_member).sum()), 1)


def entrants(shape: PoolShape, competitions: Iterable[Competition]) -> Entrants:
    """The score of every group of duplicates, over all given conditions pooled."""
    groups, first, inverse = np.unique(shape.group, return_index=True, return_inverse=True)
    score = np.full(groups.size, -np.inf)
    for each in competitions:
        np.maximum.at(score, inverse[each.winner], each.closeness.astype(np.float64))
    members = np.bincount(inverse, weights=shape.is_member, minlength=groups.size)
    pure = (members == 0) | (members == np.bincount(inverse))
    return Entrants(
        score[pure], (members > 0)[pure], shape.stratum[first][pure], groups[pure], shape.typical[first][pure]
    )


def q_values(pool: Entrants) -> np.ndarray:
    """float64 [G]: the smallest false discovery rate at which a group counts; 1 for decoys and groups without a sample."""
    value = standing(pool)
    order = _best_first(pool, value)
    member = pool.is_member[order]
    rate = pool.ratio * (1 + np.cumsum(~member)) / np.maximum(np.cumsum(member), 1)
    # A threshold takes all groups that stand out equally far.
    rate[:-1][value[order][:-1] == value[order][1:]] = np.inf
    found = np.ones(pool.score.size)
    smallest = np.minimum.accumulate(rate[::-1])[::-1]
    found[order[member]] = np.minimum(smallest[member], 1.0)
    return found


def standing(pool: Entrants) -> np.ndarray:
    """float64 [G]: each score less its stratum's median of `typical`; −inf where the group wins no sample."""
    found = pool.score.copy()
    for number in np.unique(pool.stratum):
        mine = pool.stratum == number
        found[mine] -= np.median(pool.typical[mine])
    return found


def _best_first(pool: Entrants, value: np.ndarray) -> np.ndarray:
    """The groups with a finite value in descending order, equal ones in that of a fixed draw."""
    draw = np.random.default_rng(0).random(value.size)
    order = np.lexsort((draw, -value))
    return order[np.isfinite(value[order])]


@dataclass(frozen=True)
class TopTest:
    """A permutation test for few images: do members lead some stratum's ranking, or that of all strata, more than chance allows?

    The statistic is the smallest hypergeometric tail probability of the number of members among the first k images, over the
    ranking of each stratum and the one of all together (by `standing`), and over all k ≤ `depth`. Labels are permuted within
    strata. So strata and lengths are paid for.
    """

    rankings: list[tuple[np.ndarray, int, int]]
    """The labels of each ranking (bool, whether a member; best first), with the members and decoys that take part in it: of each
    stratum, then of all."""
    depth: int
    null: np.ndarray
    """float64 [`PERMUTATIONS`], ascending, the statistic under permuted labels."""

    @classmethod
    def of(cls, pool: Entrants, depth: int) -> "TopTest":
        """The test of a pool."""
        numbers = np.unique(pool.stratum)
        rng, lowest = np.random.default_rng(0), np.full(PERMUTATIONS, 0.0)
        order, overall = _best_first(pool, pool.score), _best_first(pool, standing(pool))[:depth]
        rankings = []
        together = np.empty((PERMUTATIONS, overall.size), bool)
        for number in numbers:
            mine = pool.stratum == number
            members, decoys = int((pool.is_member & mine).sum()), int((~pool.is_member & mine).sum())
            drawn = _permuted(members, decoys, min(depth, members + decoys), rng)
            lowest = np.minimum(lowest, _smallest_tail(drawn, members, decoys))
            rankings.append((pool.is_member[order[mine[order]]], members, decoys))
            # The images of a stratum stand in the same order in both rankings.
            places = np.flatnonzero(mine[overall])
            together[:, places] = drawn[:, : places.size]
        members, decoys = int(pool.is_member.sum()), int((~pool.is_member).sum())
        if numbers.size > 1 and overall.size:
            lowest = np.minimum(lowest, _smallest_tail(together, members, decoys))
            rankings.append((pool.is_member[overall], members, decoys))
        return cls(rankings, depth, np.sort(lowest))

    @property
    def p_value(self) -> float:
        """The p-value of the pool's own labels."""
        lowest = min(
            (
                float(_smallest_tail(labels[None, : self.depth], members, decoys)[0])
                for labels, members, decoys in self.rankings
                if labels.size
            ),
            default=0.0,
        )
        return float((1 + np.searchsorted(self.null, lowest + 1e-9, side="right")) / (1 + self.null.size))

    def leading(self, members: int, decoys: int, alpha: float = 0.01) -> int:
        """Members that must lead a ranking of so many images, before any decoy, for a p-value of `alpha`; `members` + 1 if none
        will do."""
        lead = np.ones((1, min(self.depth, members)), bool)
        tails = _tails(lead, members, decoys)[0]
        enough = np.flatnonzero(tails <= self.null[max(int(alpha * (1 + self.null.size)) - 2, 0)] + 1e-9)
        return int(enough[0]) + 1 if enough.size else members + 1


def _permuted(members: int, decoys: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """bool [`PERMUTATIONS`, length], the first labels of random orders of a stratum's images."""
    left = np.full(PERMUTATIONS, float(members))
    drawn = np.empty((PERMUTATIONS, length), bool)
    for k in range(length):
        drawn[:, k] = rng.random(PERMUTATIONS) < left / (members + decoys - k)
        left -= drawn[:, k]
    return drawn


def _smallest_tail(labels: np.ndarray, members: int, decoys: int) -> np.ndarray:
    """float64 [B]: the logarithm of the smallest P(X ≥ members among the first k) over k, of labels bool [B, K]."""
    return np.asarray(_tails(labels, members, decoys).min(axis=1))


def _tails(labels: np.ndarray, members: int, decoys: int) -> np.ndarray:
    """float64 [B, K]: the logarithm of P(X ≥ members among the first k), X hypergeometric, for k = 1 … K."""
    k = np.arange(1, labels.shape[1] + 1)
    table = _log_tails(members, decoys, labels.shape[1])
    return np.asarray(table[k[None, :] - 1, np.cumsum(labels, axis=1)])


@functools.cache
def _log_tails(members: int, decoys: int, most: int) -> np.ndarray:
    """float64 [K, K + 1]: log P(at least x members among k drawn), by k − 1 and x."""
    # By logarithms of factorials, which is much faster than `scipy.stats.hypergeom` for a whole table.
    factorial = special.gammaln(np.arange(members + decoys + 1) + 1.0)

    def choose(n: int, k: np.ndarray) -> np.ndarray:
        inside = (k >= 0) & (k <= n)
        k = np.where(inside, k, 0)
        return np.where(inside, factorial[n] - factorial[k] - factorial[n - k], -np.inf)

    x, k = np.arange(most + 1), np.arange(1, most + 1)[:, None]
    at = np.exp(choose(members, x) + choose(decoys, k - x) - choose(members + decoys, k))
    with np.errstate(divide="ignore"):
        return np.log(np.minimum(np.cumsum(at[:, ::-1], axis=1)[:, ::-1], 1.0))
