"""Evidence by condition, and by training image."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from side_ray.statistics.evidence.decoys import Entrants, entrants, q_values, standing
from side_ray.statistics.evidence.excess import compare, excess
from side_ray.statistics.evidence.pool import Competition, PoolShape
from side_ray.statistics.evidence.verdict import FDR, Judgement, judge

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
    rows: dict[Key, dict[str, Any]] = {}
    for key, each in excesses.items():
        row: dict[str, Any] = {
            "excess": each.value,
            "excess_ci": list(each.ci),
            "excess_member_share": each.member_share,
            "excess_unseen_share": each.unseen_share,
            "discoveries": discoveries(entrants(shape, [found[key]]), found[key], shape),
        }
        base = excesses.get(RANDOM)
        if base is not None and key != RANDOM and base.samples.size == each.samples.size:
            row["excess_over_random"] = compare(each, base).as_dict()
        rows[key] = row
    return Evidence(judge(shape, list(found.values()), cut, rate), rows)


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


def ledger(
    shape: PoolShape, judgement: Judgement, found: Mapping[Key, Competition], labels: np.ndarray | None, sign: int
) -> dict[str, Any]:
    """One row for each training image, as columns.

    Args:
        labels: int64 [m], the members' labels.
        sign: 1 where larger values are closer, −1 where smaller ones are.

    Returns:
        `train_id`; `label`; `group` and `group_size` (members that are duplicates of each other); `stratum`; `matches`, the
        samples of all conditions within the cut, and `methods`, those that made them; `probability` with `probability_low` and
        `probability_high`: of a match in one sample of the method and λ that matched it most, 95 % (Clopper–Pearson, for a λ
        chosen beforehand); `best`, the closest value of a sample that the image's group wins (null without one); `q_value`;
        `revealed` and `copied`.
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
        "matches": stacked.sum(axis=0),
        "methods": methods,
        "probability": hits / n,
        "probability_low": np.where(hits > 0, stats.beta.ppf(0.025, np.maximum(hits, 1), n - hits + 1), 0.0),
        "probability_high": np.where(hits < n, stats.beta.ppf(0.975, hits + 1, np.maximum(n - hits, 1)), 1.0),
        "best": [float(sign * value) if np.isfinite(value) else None for value in score],
        "q_value": np.where(known, judgement.q[rows], 1.0),
        "revealed": known & (judgement.q[rows] <= FDR) & pool.is_member[rows],
        "copied": known & judgement.copied[rows],
    }
