"""Evidence by condition, and by training image."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from scipy import stats

from side_ray.statistics.evidence.decoys import Entrants, entrants, q_values, standing
from side_ray.statistics.evidence.excess import Excess, compare, excess
from side_ray.statistics.evidence.pool import Competition, PoolShape
from side_ray.statistics.evidence.verdict import FDR, Judgement, judge
from side_ray.statistics.richness import LEAST_COVERAGE, richness

K = TypeVar("K")
LEVELS = ("0.01", "0.05")
Key = tuple[str, float]
"""Method and λ."""
RANDOM: Key = ("random", 0.0)


@dataclass(frozen=True)
class Evidence:
    """What a whole audit has to say."""

    judgement: Judgement
    conditions: dict[Key, dict[str, Any]]
    """The keys that each condition has in metrics.json: `excess` and what belongs to it, `excess_over_random`, `discoveries`."""


def weigh(shape: PoolShape, found: Mapping[Key, Competition], cut: float, rate: float) -> Evidence:
    """The verdict over all conditions, and the numbers of each.

    Args:
        cut: closeness at the calibrated cut.
        rate: the false-match rate of the config.
    """
    excesses = {key: excess(each, shape) for key, each in found.items()}
    rows = {key: beyond_chance(found[key], shape, each, excesses.get(RANDOM)) for key, each in excesses.items()}
    return Evidence(judge(shape, list(found.values()), cut, rate), rows)


def beyond_chance(found: Competition, shape: PoolShape, own: Excess, random: Excess | None) -> dict[str, Any]:
    """The numbers of one condition.

    Args:
        own: its excess.
        random: that of Random; a difference is given where it has as many samples.
    """
    row: dict[str, Any] = {
        "excess": own.value,
        "excess_ci": list(own.ci),
        "excess_member_share": float(own.member.share.mean()),
        "excess_unseen_share": float(own.unseen.share.mean()),
        "discoveries": discoveries(entrants(shape, [found]), found, shape),
    }
    if random is not None and random is not own and random.samples.size == found.size:
        row["excess_over_random"] = compare(own, random).as_dict()
    return row


def discoveries(pool: Entrants, found: Competition, shape: PoolShape) -> dict[str, dict[str, int]]:
    """By false discovery rate: the distinct training images that one condition reveals, and its samples of these.

    A sample counts if it is won by a revealed image and stands out as far as one of them. That is a description: samples of one
    image share its fate, so the rate holds for the images only.
    """
    q, far = q_values(pool), standing(pool)
    known = np.isfinite(far)
    middle = dict(zip(pool.group[known].tolist(), (pool.score[known] - far[known]).tolist(), strict=True))
    counts = {}
    for level in LEVELS:
        revealed = pool.is_member & (q <= float(level))
        least = far[revealed].min(initial=np.inf)
        groups = shape.group[found.winner]
        won = np.isin(groups, pool.group[revealed])
        mean = np.array([middle[group] for group in groups[won].tolist()])
        counts[level] = {
            "samples": int((found.closeness[won] - mean >= least).sum()),
            "distinct": int(revealed.sum()),
        }
    return counts


def at_equal_cost(
    found: Mapping[K, tuple[PoolShape, Competition]], cost: Mapping[K, float]
) -> dict[K, dict[str, float]]:
    """What each condition reveals with as many of its first samples as the cheapest condition's whole cost pays for.

    Args:
        cost: of one sample, by condition.

    Returns:
        By condition `per_sample` (its cost), `samples`, and `distinct` training images at a false discovery rate of `FDR`.
    """
    budget = min(each.size * cost[key] for key, (_, each) in found.items())
    rows = {}
    for key, (shape, each) in found.items():
        part = each.first(math.floor(budget / cost[key] * (1 + 1e-12)))
        rows[key] = {"per_sample": cost[key], "samples": part.size, "distinct": distinct(shape, part)}
    return rows


def distinct(shape: PoolShape, found: Competition) -> int:
    """Distinct training images that some samples reveal at a false discovery rate of `FDR`."""
    pool = entrants(shape, [found])
    return int((pool.is_member & (q_values(pool) <= FDR)).sum())


@dataclass(frozen=True)
class Surroundings:
    """Where the members lie among the images of the audit; arrays [m]."""

    distance: np.ndarray
    """float64, mean distance to the nearest images (of features; for cosines of unit vectors)."""
    nearest: np.ndarray
    """float32, the value that an exact copy of the member has with its nearest unseen image."""
    number: np.ndarray
    """int64, that unseen image."""


def ledger(
    shape: PoolShape,
    judgement: Judgement,
    found: Mapping[Key, Competition],
    labels: np.ndarray | None,
    around: Surroundings,
    sign: int,
) -> dict[str, Any]:
    """One row for each training image, as columns.

    Args:
        labels: int64 [m], the members' labels.
        sign: 1 where larger values are closer, −1 where smaller ones are.

    Returns:
        `train_id`; `label`; `group` and `group_size` (members that are duplicates of each other); `stratum`; `local_density`, the
        members' median of the mean distance to the nearest images over its own, so above 1 where images lie densely;
        `nearest_unseen`, the value that an exact copy would have with its nearest unseen image, and `nearest_unseen_id` (those of
        `calibration`, then those of `holdout`); `matches`, the samples of all conditions within the cut, `condition_matches`,
        those of each condition in the order of metrics.json, and `methods`, those that made them; `probability` of a match in one
        sample of the condition that matched it most, with `probability_low` and `probability_high`, 95 % (Clopper–Pearson, for a
        condition chosen beforehand); `best`, the closest value of a sample that the image's group wins (null without one);
        `q_value`; `revealed` and `copied`.
    """
    m, pool = shape.members, judgement.pool
    _, own, members = np.unique(shape.group[:m], return_inverse=True, return_counts=True)
    counts = {
        # Duplicates share their matches, which the search gives to the first of them.
        key: np.bincount(own[each.images[each.images < m]], minlength=members.size)[own]
        for key, each in found.items()
    }
    stacked = np.stack(list(counts.values()))
    sizes = np.array([each.size for each in found.values()])
    middle = float(np.median(around.distance))
    best = (stacked / sizes[:, None]).argmax(axis=0)
    hits, n = stacked[best, np.arange(m)], sizes[best]
    place = {group: row for row, group in enumerate(pool.group.tolist())}
    rows = np.array([place.get(group, -1) for group in shape.group[:m].tolist()])
    known = rows >= 0
    score = np.where(known, pool.score[rows], -np.inf)
    methods = [sorted({key[0] for key, each in counts.items() if each[i]}) for i in range(m)]
    return {
        "train_id": np.arange(m),
        "label": [None] * m if labels is None else [int(label) if label >= 0 else None for label in labels],
        "group": shape.group[:m],
        "group_size": members[own],
        "stratum": shape.stratum[:m],
        "local_density": [middle / distance if distance > 0 else None for distance in around.distance.tolist()],
        "nearest_unseen": around.nearest,
        "nearest_unseen_id": around.number,
        "matches": stacked.sum(axis=0),
        "condition_matches": list(stacked.T),
        "methods": methods,
        "probability": hits / n,
        "probability_low": np.where(hits > 0, stats.beta.ppf(0.025, np.maximum(hits, 1), n - hits + 1), 0.0),
        "probability_high": np.where(hits < n, stats.beta.ppf(0.975, hits + 1, np.maximum(n - hits, 1)), 1.0),
        "best": [float(sign * value) if np.isfinite(value) else None for value in score],
        "q_value": np.where(known, judgement.q[rows], 1.0),
        "revealed": known & (judgement.q[rows] <= FDR) & pool.is_member[rows],
        "copied": known & judgement.copied[rows],
    }


def reach(table: Mapping[str, Any], condition: int, n: int) -> dict[str, Any]:
    """How many training images further samples of one condition would match, from its column of the ledger.

    Only revealed images count: matches by chance, mostly single ones, would raise every estimate. No number is larger than the
    training set, and none is given beyond the samples drawn below a coverage of `LEAST_COVERAGE`.

    Args:
        table: what `ledger` returns.
        condition: its place in `condition_matches`.
        n: its number of samples.

    Returns:
        The keys of `richness`; `chao2` is null, and `curve` ends at n, where they are withheld.
    """
    first = table["train_id"] == table["group"]
    counts = np.array([each[condition] for each in table["condition_matches"]])
    limit, found = float(first.sum()), richness(counts[first & table["revealed"] & (counts > 0)], n)
    known = found["coverage"] >= LEAST_COVERAGE
    capped = found["chao2"] | {
        "value": min(found["chao2"]["value"], limit),
        "ci": [min(x, limit) for x in found["chao2"]["ci"]],
    }
    capped["unseen"] = capped["value"] - found["distinct"]
    curve = [
        row | {"distinct": min(row["distinct"], limit), "ci": [min(x, limit) for x in row["ci"]]}
        for row in found["curve"]
        if known or not row["extrapolated"]
    ]
    return found | {"chao2": capped if known else None, "curve": curve}


def leading_rows(table: Mapping[str, Any], most: int) -> list[dict[str, Any]]:
    """The revealed images with the smallest q-values, the most matched first among equals, JSON-able; groups once."""
    shown = np.flatnonzero(table["revealed"] & (table["train_id"] == table["group"]))
    order = shown[np.lexsort((-table["matches"][shown], table["q_value"][shown]))][:most]
    names = [name for name in table if name not in ("condition_matches", "group", "revealed")]
    rows = [{name: table[name][i] for name in names} for i in order]
    return [{name: value.item() if hasattr(value, "item") else value for name, value in row.items()} for row in rows]


def overview(table: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Counts of training images, JSON-able; groups of duplicates count once.

    Returns:
        `overlap`: the copied images by the `methods` that have a sample of them within the cut, most `images` first. `classes`
        and `clusters`: by label (none without labels) and by stratum, as `number`, the `images`, and those of them that are
        `revealed` and `copied`.
    """
    once = table["train_id"] == table["group"]
    sets = Counter(tuple(table["methods"][i]) for i in np.flatnonzero(table["copied"] & once))
    found = {"overlap": [{"methods": list(names), "images": count} for names, count in sets.most_common() if names]}
    labels = np.array([-1 if label is None else label for label in table["label"]])
    for name, numbers in (("classes", labels), ("clusters", np.asarray(table["stratum"]))):
        found[name] = [
            {"number": number, "images": int(of.sum())}
            | {key: int((table[key] & of).sum()) for key in ("revealed", "copied")}
            for number in np.unique(numbers[once & (numbers >= 0)]).tolist()
            if (of := once & (numbers == number)).any()
        ]
    return found
