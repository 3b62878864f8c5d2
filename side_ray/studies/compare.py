"""Compares finished runs: the same conditions before and after a mitigation, or of two models."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from side_ray.errors import UserError
from side_ray.report import wording
from side_ray.report.findings import headline
from side_ray.results.recorded import Recorded
from side_ray.statistics.control import LEVEL, holm
from side_ray.statistics.evidence.excess import compare as compare_excess
from side_ray.statistics.intervals import clopper_pearson
from side_ray.statistics.richness import at_size
from side_ray.storage import Store

SECTIONS = ("data", "dpm", "surrogate", "extract", "score")
MOST_CHANGES = 12


def compare(stores: Sequence[Store]) -> dict[str, Any]:
    """Compare each run with the first one, condition by condition.

    Where both runs have the same training set and unseen images, the difference is that of the excess, each at its run's own cut
    (`evidence.excess.compare`): it counts samples and chance resemblance of images, and is about these two models. Otherwise a
    sample counts +1 if it is a copy (within its run's own cut) and −1 if it matches a held-out image that closely; the mean of
    that is called excess too, and its interval counts samples alone. Samples of one number share their noise where the seeds
    are the same, so such conditions are compared in pairs. UMS is compared at the smaller N_G, by rarefaction.

    Args:
        stores: two or more run directories with reports.

    Returns:
        JSON-able: `runs` (of each `uri`, `cut`, `train_size`, `headline`, and `changes`, its config keys that differ from the
        first run's) and `rows`, one for each later run and condition: `run` (its place in `runs`), `method`, `lambda`, `n`,
        `paired`, `over` (`images` or `samples`: what the interval counts), `copies` and `excess` (of the first run and of this
        one), `difference` (of the excess, this − first), `ci` (95 %), `p_value` and `p_adjusted` (Holm, over all rows), `worse`
        (significantly more), and `ums` (at `n` samples; None where a run's hits are no longer there). Without held-out images
        the excess is the share of copies.

    Raises:
        UserError: a run has no report, the similarities differ, or no condition is in both runs.
    """
    return compare_recorded([Recorded.open(store) for store in stores])


def compare_recorded(runs: Sequence[Recorded]) -> dict[str, Any]:
    """As `compare`, of reports that are open already; they may be in one run directory."""
    first, rows = runs[0], list[dict[str, Any]]()
    for place, other in enumerate(runs[1:], 1):
        rows += [{"run": place, **row} for row in _rows(first, other)]
    for row, adjusted in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row |= {"p_adjusted": adjusted, "worse": bool(adjusted < LEVEL and row["difference"] > 0)}
    return {"runs": [_about(run, first) for run in runs], "rows": rows}


def _about(run: Recorded, first: Recorded) -> dict[str, Any]:
    metrics = run.metrics
    found = {"uri": run.store.uri, "cut": metrics.get("cut"), "train_size": metrics["train_size"]}
    changes = [change for name in SECTIONS for change in _changes(first.config.get(name), run.config.get(name), name)]
    return found | {"headline": headline(metrics), "changes": changes[:MOST_CHANGES]}


def _changes(before: Any, after: Any, path: str) -> list[str]:
    """The leaves of two configs that differ, as `key: before → after`."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return [
            line
            for key in dict.fromkeys([*before, *after])
            for line in _changes(before.get(key), after.get(key), f"{path}.{key}")
        ]
    return [] if before == after else [f"{path}: {before} → {after}"]


def _rows(first: Recorded, other: Recorded) -> list[dict[str, Any]]:
    names = [run.metrics["similarity"]["name"] for run in (first, other)]
    if names[0] != names[1]:
        raise UserError(
            f"compare: {first.store.uri} was scored by {names[0]}, {other.store.uri} by {names[1]}; score both alike"
        )
    if (first.criterion.kind, first.criterion.name) != (other.criterion.kind, other.criterion.name):
        raise UserError(
            f"compare: copies of {first.store.uri} are counted by {first.criterion.title}, those of {other.store.uri} by "
            f"{other.criterion.title}; score both with, or both without, unseen images and with the same bands"
        )
    theirs = {(each["method"], each["lambda"]): each for each in other.metrics["conditions"]}
    pairs = [
        (each, theirs[key])
        for each in first.metrics["conditions"]
        if (key := (each["method"], each["lambda"])) in theirs
    ]
    if not pairs:
        told = ["; ".join(map(wording.condition_name, run.metrics["conditions"])) for run in (first, other)]
        raise UserError(
            f"compare: no condition is in both runs: {first.store.uri} has {told[0]}, {other.store.uri} {told[1]}"
        )
    return [_row(first, mine, other, their) for mine, their in pairs]


def _row(first: Recorded, mine: Mapping[str, Any], other: Recorded, their: Mapping[str, Any]) -> dict[str, Any]:
    method, n = mine["method"], min(mine["n"], their["n"])
    paired = method != "given" and first.config["run"]["seed"] == other.config["run"]["seed"]
    found = _over_images(first, mine, other, their, n if paired else None)
    if found is not None:
        excess, (difference, ci, p_value) = found
    else:
        before, after = _signs(first, mine), _signs(other, their)
        if paired:
            before, after = before[:n], after[:n]
        excess = [float(before.mean()), float(after.mean())]
        difference, ci, p_value = difference_of(before, after, paired)
    return {
        "method": method,
        "lambda": mine["lambda"],
        "n": n,
        "paired": paired,
        "over": "samples" if found is None else "images",
        "copies": [(first.criterion.of(mine) or {})["ams"], (other.criterion.of(their) or {})["ams"]],
        "excess": excess,
        "difference": difference,
        "ci": ci,
        "p_value": p_value,
        "ums": [_ums(first, mine, n), _ums(other, their, n)],
    }


def _over_images(
    first: Recorded, mine: Mapping[str, Any], other: Recorded, their: Mapping[str, Any], paired: int | None
) -> tuple[list[float], tuple[float, list[float], float]] | None:
    """The excess of both, and its difference, interval and p-value; None where their images differ or unseen ones are missing.

    Args:
        paired: the number of samples that share their noise; None where they do not.
    """
    if first.artifacts.get("prepare") != other.artifacts.get("prepare"):
        return None
    before, after = first.excess(mine, paired or mine["n"]), other.excess(their, paired or their["n"])
    if before is None or after is None:
        return None
    found = compare_excess(after, before, paired=paired is not None)
    return [before.value, after.value], (found.difference, list(found.ci), found.p_value)


def _signs(run: Recorded, condition: Mapping[str, Any]) -> np.ndarray:
    """Whether each sample is a copy, minus whether it matches a held-out image as closely; int64 [N_G]."""
    scores = run.scores(condition)
    copies = run.criterion.includes(scores["best"]).astype(np.int64)
    return copies - run.criterion.includes(scores["holdout_best"]) if "holdout_best" in scores else copies


def difference_of(before: np.ndarray, after: np.ndarray, paired: bool) -> tuple[float, list[float], float]:
    """The difference of two means, its 95 % interval, and the two-sided probability of one as large by chance.

    Paired: the exact sign test on the samples that differ (McNemar's test where no held-out image matches), and an interval from
    the variance of the differences. Otherwise Fisher's exact test if both hold only 0 and 1, else Welch's.

    Args:
        before, after: int64 [N] of −1, 0 and 1; of the same length if `paired`.
    """
    difference = float(after.mean() - before.mean())
    if paired:
        steps = after - before
        variance, up, down = float(steps.var()) / steps.size, int((steps > 0).sum()), int((steps < 0).sum())
        p_value = float(stats.binomtest(up, up + down).pvalue) if up + down else 1.0
    else:
        variance = float(before.var() / before.size + after.var() / after.size)
        if min(before.min(), after.min()) >= 0:
            table = [[int(each.sum()), int(each.size - each.sum())] for each in (before, after)]
            p_value = float(stats.fisher_exact(table).pvalue)
        else:
            p_value = float(stats.ttest_ind(before, after, equal_var=False).pvalue)
    if not variance:  # nothing differs: as many samples as there are may all agree by chance
        most = clopper_pearson(0, min(before.size, after.size))[1]
        return difference, [difference - most, difference + most], p_value
    half = float(stats.norm.ppf(0.975) * np.sqrt(variance))
    return difference, [difference - half, difference + half], p_value


def _ums(run: Recorded, condition: Mapping[str, Any], n: int) -> float | None:
    hits = run.hits(condition)
    return None if hits is None else float(at_size(hits.counts, condition["n"], n)["ums"])
