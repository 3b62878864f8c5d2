"""The scores of one condition: AMS and UMS (Eq. 14, 15) in every band, with counts, intervals and the held-out control."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from side_ray.search import closeness_of
from side_ray.statistics.bands import CALIBRATED, Bands
from side_ray.statistics.cut import Cut
from side_ray.statistics.hits import BandHits, Hits, merge_hits, union
from side_ray.statistics.intervals import McNemar, clopper_pearson, distinct_interval, mcnemar
from side_ray.statistics.richness import richness

FEW = 5
"""With fewer matches than this, intervals are wide and their coverage is well above the nominal level."""
TOP_PERCENTS = ("0.01", "0.05", "0.1", "0.5", "1", "5", "10")


@dataclass(frozen=True)
class ConditionScores:
    """Stored scores of the N samples of one condition, all arrays in the same order."""

    best: np.ndarray
    """float32 [N], value of the closest training image."""
    best_id: np.ndarray
    """int64 [N], its id."""
    hits: Hits
    """By band name, and `calibrated`; see `hits.merge_hits`."""
    holdout_best: np.ndarray | None = None
    """float32 [N], value of the closest held-out image."""
    second: np.ndarray | None = None
    """float32 [N], value of the second-closest training image, if values are proportional to pixel distances (nL2)."""


def join(parts: Sequence[ConditionScores]) -> ConditionScores:
    """The concatenated scores of one or more shards of one condition."""
    holdout = [part.holdout_best for part in parts if part.holdout_best is not None]
    second = [part.second for part in parts if part.second is not None]
    return ConditionScores(
        np.concatenate([part.best for part in parts]),
        np.concatenate([part.best_id for part in parts]),
        merge_hits(part.hits for part in parts),
        np.concatenate(holdout) if holdout else None,
        np.concatenate(second) if second else None,
    )


def cut_metrics(
    scores: ConditionScores, bands: Bands, cut: Cut | None = None, *, train_size: int | None = None
) -> dict[str, Any]:
    """The part `bands`, `cumulative` and `calibrated` of `condition_metrics`."""
    levels = bands.levels()
    member_level = levels.assign(scores.best)
    holdout_level = None if scores.holdout_best is None else levels.assign(scores.holdout_best)

    def of(names: list[str]) -> dict[str, Any]:
        inside = np.logical_or.reduce([levels.named(name) for name in names])
        inside = np.append(inside, False)  # level -1
        holdout = None if holdout_level is None else inside[holdout_level]
        return band_metrics(scores, inside[member_level], holdout, union(scores.hits, names), train_size)

    calibrated = None
    if cut is not None:
        holdout = None if scores.holdout_best is None else reaches(scores.holdout_best, cut, bands.larger_is_closer)
        member = reaches(scores.best, cut, bands.larger_is_closer)
        calibrated = band_metrics(scores, member, holdout, union(scores.hits, [CALIBRATED]), train_size)
    return {
        "bands": {name: of([name]) for name in bands.names},
        "cumulative": {name: of(bands.within(name)) for name in bands.names},
        "calibrated": calibrated,
    }


def condition_metrics(
    scores: ConditionScores, bands: Bands, cut: Cut | None = None, *, train_size: int | None = None
) -> dict[str, Any]:
    """All numbers of one condition, under the names of `metrics.json`.

    Returns:
        `n`, `bands` and `cumulative` (one entry per band), `calibrated` (None without a cut), `top_mean`, `top_count`,
        `percentile_95`, `diffmemorize` (None without `second`), `richness` (of the calibrated cut, or of the loosest cumulative
        band without one). See `band_metrics` for an entry.
    """
    top = [top_mean(scores.best, percent, bands.larger_is_closer) for percent in TOP_PERCENTS]
    n = int(scores.best.size)
    return {
        "n": n,
        **cut_metrics(scores, bands, cut, train_size=train_size),
        "top_mean": {percent: mean for percent, (mean, _) in zip(TOP_PERCENTS, top, strict=True)},
        "top_count": {percent: count for percent, (_, count) in zip(TOP_PERCENTS, top, strict=True)},
        "percentile_95": percentile_95(scores.best, bands.larger_is_closer),
        "diffmemorize": None if scores.second is None else diffmemorize(scores.best, scores.second),
        "richness": richness(union(scores.hits, [CALIBRATED] if cut is not None else bands.names).counts, n),
    }


def band_metrics(
    scores: ConditionScores,
    matches: np.ndarray,
    holdout_matches: np.ndarray | None,
    hits: BandHits,
    train_size: int | None = None,
) -> dict[str, Any]:
    """One band's numbers; shares are fractions of N, intervals 95 %.

    Args:
        matches: bool [N], best value in the band (Eq. 14's indicator).
        holdout_matches: bool [N], the same against held-out images.
        hits: every training image in the band (Eq. 15's union).

    Returns:
        `ams`, `ams_count`, `ams_ci` (Clopper–Pearson); `ums`, `ums_count`, `ums_ci` (`intervals.distinct_interval`: of the
        expected UMS at this N); `ums_best`, `ums_best_count`, `ums_best_ci` (distinct best matches); `holdout_ams`,
        `holdout_count`, `holdout_ci`; `lift` (member share over held-out share, None where no held-out image matches) and
        `lift_ci` (from the two shares' 97.5 % intervals, so coverage is at least 95 %; an upper end of None = unbounded);
        `few` if fewer than five samples match.
    """
    n = int(matches.size)
    count = int(matches.sum())
    best = _best_hits(scores, matches)
    low, high = distinct_interval(hits.counts, n, only_sample=hits.sample_ids, limit=train_size)
    best_low, best_high = distinct_interval(best.counts, n, limit=train_size)
    entry: dict[str, Any] = {
        "ams": count / n,
        "ams_count": count,
        "ams_ci": list(clopper_pearson(count, n)),
        "ums": hits.train_ids.size / n,
        "ums_count": int(hits.train_ids.size),
        "ums_ci": [low / n, high / n],
        "ums_best": best.train_ids.size / n,
        "ums_best_count": int(best.train_ids.size),
        "ums_best_ci": [best_low / n, best_high / n],
        "few": count < FEW,
    }
    if holdout_matches is None:
        return entry | dict.fromkeys(("holdout_ams", "holdout_count", "holdout_ci", "lift", "lift_ci"))
    false = int(holdout_matches.sum())
    member_low, member_high = clopper_pearson(count, n, 0.975)
    false_low, false_high = clopper_pearson(false, n, 0.975)
    return entry | {
        "holdout_ams": false / n,
        "holdout_count": false,
        "holdout_ci": list(clopper_pearson(false, n)),
        "lift": count / false if false else None,
        "lift_ci": [member_low / false_high, member_high / false_low if false_low else None],
    }


def _best_hits(scores: ConditionScores, matches: np.ndarray) -> BandHits:
    train_ids, first, counts = np.unique(scores.best_id[matches], return_index=True, return_counts=True)
    return BandHits(train_ids, counts, first)


def reaches(values: np.ndarray, cut: Cut, larger_is_closer: bool) -> np.ndarray:
    """bool, of the shape of `values` (float32): whether a value is at the calibrated cut or closer."""
    return closeness_of(values, larger_is_closer) >= closeness_of(np.float32(cut.value), larger_is_closer)


def top_mean(best: np.ndarray, percent: str | float, larger_is_closer: bool) -> tuple[float, int]:
    """The paper's "Top p %": the *mean* of the best p % of the best values (Tables 3 and 4), not a percentile.

    Returns:
        The mean and the number of values in it, ⌊N · p / 100⌋ but at least one.
    """
    # In integers: 50,000 · (0.01 / 100) can be slightly below 5 in floating point.
    count = max(1, best.size * round(float(percent) * 10_000) // 1_000_000)
    closeness = np.partition(closeness_of(best, larger_is_closer), best.size - count)[best.size - count :]
    mean = float(closeness.astype(np.float64).mean())
    # Not −mean, which is −0 for exact copies.
    return mean if larger_is_closer else 0.0 - mean, count


def percentile_95(best: np.ndarray, larger_is_closer: bool) -> float:
    """The value that the closest 5 % of samples reach, linearly interpolated: the 95th percentile, for nL2 the 5th."""
    return float(np.percentile(best.astype(np.float64), 95 if larger_is_closer else 5))


def diffmemorize(nearest: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """Gu et al.'s criterion d₁ < d₂ / 3, on distances to the nearest and second-nearest training image in pixel space.

    It does not detect copies of images that are duplicated in the training set: both distances are then equally small.

    Args:
        nearest, second: float32 [N], distances or anything proportional to them, such as nL2.

    Returns:
        `share`, `count`, `ci`.
    """
    count = int((3 * nearest.astype(np.float64) < second.astype(np.float64)).sum())
    return {"share": count / nearest.size, "count": count, "ci": list(clopper_pearson(count, int(nearest.size)))}


def compare(
    a: ConditionScores, a_ids: np.ndarray, b: ConditionScores, b_ids: np.ndarray, cut: Cut, larger_is_closer: bool
) -> McNemar:
    """McNemar's test at the calibrated cut on the samples that both conditions have, paired by sample id (same noise)."""
    _, in_a, in_b = np.intersect1d(a_ids, b_ids, return_indices=True)
    return mcnemar(reaches(a.best[in_a], cut, larger_is_closer), reaches(b.best[in_b], cut, larger_is_closer))
