"""Which pairs of a sample and its closest training image a report shows."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from side_ray.runs.plan import Condition
from side_ray.statistics.scores import ConditionScores

BORDERLINE = 24
"""Pairs just beyond the cut that are shown beside those within it."""


@dataclass(frozen=True)
class Chosen:
    """One pair: the condition and id of the sample, its closest training image, and the similarity between them."""

    condition: Condition
    sample_id: int
    train_id: int
    value: float


def closest_of_each(
    scores: Mapping[Condition, ConditionScores], larger_is_closer: bool, limit: int
) -> dict[str, list[Chosen]]:
    """The `limit` closest pairs of each method, at most one per training image."""
    sign = -1 if larger_is_closer else 1
    found: dict[str, list[Chosen]] = defaultdict(list)
    for each, result in scores.items():
        order = np.argsort(sign * result.best, kind="stable")
        _, first = np.unique(result.best_id[order], return_index=True)
        found[each.method] += _chosen(each, result, order[np.sort(first)][:limit])
    for method, pairs in found.items():
        distinct: dict[int, Chosen] = {}
        for pair in sorted(pairs, key=lambda pair: (sign * pair.value, pair.sample_id)):
            distinct.setdefault(pair.train_id, pair)
        found[method] = list(distinct.values())[:limit]
    return dict(found)


def around_the_cut(
    scores: Mapping[Condition, ConditionScores],
    within: Mapping[Condition, np.ndarray],
    larger_is_closer: bool,
    limit: int,
) -> tuple[list[Chosen], int]:
    """The pairs within the cut of all conditions, the closest `limit` of them, then `BORDERLINE` just beyond it.

    Args:
        within: of each condition bool [N_G], whether a sample is within the cut.

    Returns:
        The pairs, and how many are within the cut.
    """
    sign = -1 if larger_is_closer else 1
    inside, beyond = [], []
    for each, result in scores.items():
        inside += _chosen(each, result, np.flatnonzero(within[each]))
        outside = np.flatnonzero(~within[each] & np.isfinite(result.best))
        nearest = outside[np.argsort(sign * result.best[outside], kind="stable")][:BORDERLINE]
        beyond += _chosen(each, result, nearest)
    inside, beyond = (sorted(pairs, key=lambda pair: sign * pair.value) for pairs in (inside, beyond))
    return [*inside[:limit], *beyond[: BORDERLINE if limit else 0]], len(inside)


def _chosen(condition: Condition, result: ConditionScores, rows: np.ndarray) -> list[Chosen]:
    return [Chosen(condition, int(i), int(result.best_id[i]), float(result.best[i])) for i in rows]
