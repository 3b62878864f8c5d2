"""Cuts checked against the images that did not set them, and matches at equal rates of unseen matches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from side_ray.search import closeness_of
from side_ray.statistics.cut import Cut
from side_ray.statistics.evidence.excess import block, folds_of
from side_ray.statistics.evidence.pool import Competition, PoolShape
from side_ray.statistics.intervals import clopper_pearson, poisson_limits

RATES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02)
LEAST_HITS = 5
"""A rate is given where so many samples match an unseen image at it."""
FOLDS = 40


def crossfit(
    best: np.ndarray, unseen: Sequence[tuple[np.ndarray, np.ndarray]], cuts: Sequence[Cut], larger: bool
) -> dict[str, Any]:
    """Matches of one condition where each of two sets of unseen images sets the cut that the other one checks.

    Hits of one unseen image share its fate. So the interval of the unseen share counts images, not samples: with h_j hits of
    image j, Σh is taken as overdispersed Poisson with the factor Σh²/Σh.

    Args:
        best: float32 [N], values of the nearest members.
        unseen: for each of the two sets, value float32 [N] and id int64 [N] of its nearest image.
        cuts: the cut that each set has given.
        larger: whether larger values are closer.

    Returns:
        `ams` and `unseen`, the means of both cuts, with `ams_counts` and `unseen_counts` of each and `unseen_ci` (95 %).
    """
    n, matches, hits, by_image = best.size, [], [], []
    for cut, (values, images) in zip(cuts, unseen[::-1], strict=True):
        limit = closeness_of(np.float32(cut.value), larger)
        inside = closeness_of(values, larger) >= limit
        matches.append(int((closeness_of(best, larger) >= limit).sum()))
        hits.append(int(inside.sum()))
        by_image.append(np.unique(images[inside], return_counts=True)[1])
    total, squares = sum(hits), float(sum((each**2).sum() for each in by_image))
    if total:
        independent = total**2 / squares
        interval = [min(total / (2 * n) * limit / independent, 1.0) for limit in poisson_limits(independent)]
    else:
        interval = list(clopper_pearson(0, 2 * n))
    return {
        "ams": sum(matches) / (2 * n),
        "ams_counts": matches,
        "unseen": total / (2 * n),
        "unseen_counts": hits,
        "unseen_ci": interval,
    }


def equal_rates(found: Competition, shape: PoolShape, sign: int) -> list[dict[str, Any]]:
    """Matches of one condition at its own cuts for several rates of unseen matches, in the unit of the pool.

    At each cut the samples match a random block of m unseen images at the rate. The interval is a delete-a-group jackknife over
    members, unseen images and samples; every replicate finds its own cut.

    Args:
        found: with `values` down to the loosest rate.
        sign: 1 where larger values are closer, −1 where smaller ones are.

    Returns:
        Rows `rate`, `cut` (a value in the unit of the pool), `unseen` (the share at the cut, at most the rate), `matches` (share
        of samples that match a member), `ci` (95 %). Rates with fewer than `LEAST_HITS` unseen matches are left out.
    """
    curve = _Curve(found, shape)
    cuts, unseen, matches, counts = curve.at()
    known = (counts >= LEAST_HITS) & np.isfinite(cuts)
    replicates = [
        np.stack([curve.at(side, fold)[2] for fold in range(curve.count)]) for side in ("member", "unseen", "sample")
    ]
    factor = (curve.count - 1) / curve.count
    parts = np.stack([factor * ((each - each.mean(0)) ** 2).sum(0) for each in replicates])
    half = stats.t.ppf(0.975, curve.count - 1) * np.sqrt(parts.sum(0))
    known &= np.isfinite(half)
    return [
        {
            "rate": rate,
            "cut": float(sign * cuts[i]),
            "unseen": float(unseen[i]),
            "matches": float(matches[i]),
            "ci": [max(float(matches[i] - half[i]), 0.0), min(float(matches[i] + half[i]), 1.0)],
        }
        for i, rate in enumerate(RATES)
        if known[i]
    ]


class _Curve:
    """The two sides of the competition, sorted once; each replicate leaves out one fold of members, unseen images or samples."""

    def __init__(self, found: Competition, shape: PoolShape) -> None:
        folds, sizes = folds_of(shape, FOLDS)
        self.n, self.sizes, self.count = found.size, sizes, sizes[0].size
        self.m, self.d = (int(each.sum()) for each in sizes)
        of_member = shape.is_member[found.images]
        order = np.flatnonzero(~of_member)[np.argsort(-found.values[~of_member], kind="stable")]
        self.rows, self.values, self.folds = found.rows[order], found.values[order], folds[found.images[order]]
        self.sample_fold = np.random.default_rng(0).permutation(self.n) % self.count
        self.first, self.second = np.full(self.n, -np.inf), np.full(self.n, -np.inf)
        self.own = np.full(self.n, -1)
        # Each sample's best member, and its best one of another fold.
        order = np.flatnonzero(of_member)[np.argsort(found.values[of_member], kind="stable")]
        rows, values, fold = found.rows[order], found.values[order], folds[found.images[order]]
        self.first[rows], self.own[rows] = values, fold
        other = fold != self.own[rows]
        self.second[rows[other]] = values[other]

    def at(self, side: str = "", fold: int = -1) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """By rate: the cut, the unseen share, the member share, and the samples that match an unseen image."""
        samples = self.sample_fold != fold if side == "sample" else np.ones(self.n, bool)
        kept = samples[self.rows] if side == "sample" else self.folds != fold if side == "unseen" else slice(None)
        rows, values = self.rows[kept], self.values[kept]
        d = self.d - int(self.sizes[1][fold]) if side == "unseen" else self.d
        n = int(samples.sum())
        u = _occurrence(rows)
        table = block(int(u.max(initial=0)), self.m, d)
        share = np.cumsum(table[u] - table[u - 1]) / n
        last = np.append(values[1:] != values[:-1], True) if values.size else np.empty(0, bool)
        # Only whole groups of equal values can be cut off.
        share, ends, fresh = share[last], values[last], np.cumsum(u == 1)[last]
        place = np.searchsorted(share, np.array(RATES) * (1 + 1e-12), side="right") - 1
        # Beyond the last stored pair nothing is known.
        valid = (place >= 0) & (place < share.size - 1)
        cuts = np.where(valid, ends[np.maximum(place, 0)] if ends.size else np.nan, np.nan)
        best = self.first
        scale = 1.0
        if side == "member":
            best = np.where(self.own == fold, self.second, self.first)
            scale = self.m / max(self.m - int(self.sizes[0][fold]), 1)
        ordered = np.sort(best[samples])
        matches = scale * (n - np.searchsorted(ordered, cuts)) / n
        at = np.maximum(place, 0)
        return (
            cuts,
            share[at] if share.size else np.zeros(len(RATES)),
            np.where(valid, matches, np.nan),
            fresh[at] if fresh.size else np.zeros(len(RATES)),
        )


def _occurrence(rows: np.ndarray) -> np.ndarray:
    """int64 [P]: the how-manyth occurrence of its value each element is, from 1."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if rows.size else np.empty(0, np.int64)
    lengths = np.diff(np.r_[starts, rows.size])
    found = np.empty(rows.size, np.int64)
    found[order] = np.arange(rows.size) - np.repeat(starts, lengths) + 1
    return found


def loosest(found: Competition, shape: PoolShape) -> float:
    """A closeness that about twice the largest of `RATES` of the samples reach against unseen images, from some samples with all
    their pairs."""
    share = 2 * RATES[-1] * max(1.0, shape.unseen / max(shape.members, 1))
    unseen = found.images >= shape.members
    nearest = np.full(found.size, -np.inf)
    np.maximum.at(nearest, found.rows[unseen], found.values[unseen])
    return -np.inf if share >= 1 else float(np.quantile(nearest, 1 - share))
