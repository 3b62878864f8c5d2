"""Tests for the control of the classifier: do guided samples of a DPM of other images match the audited training set?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.05


@dataclass(frozen=True)
class SetTest:
    """Matches of one condition's samples with two sets of images, neither of which the sampled DPM has seen."""

    members: int
    """Samples that match the audited DPM's training set."""
    holdout: int
    """Samples that match the held-out set."""
    only_members: int
    only_holdout: int
    p_value: float
    """One-sided and exact: the probability that, of the samples that match only one set, at least so many match the members by
    chance."""


def compare_sets(
    member_matches: NDArray[np.bool_], holdout_matches: NDArray[np.bool_], members: int, holdout: int
) -> SetTest:
    """Test whether samples match the members more often than the held-out set, paired by sample (McNemar, one-sided).

    Without memorization both sets are drawn from one distribution, so a sample that matches only one of them matches the members
    with probability `members` / (`members` + `holdout`).

    Args:
        member_matches, holdout_matches: bool [N], of the same samples.
        members, holdout: sizes of the two sets.
    """
    first, second = int((member_matches & ~holdout_matches).sum()), int((holdout_matches & ~member_matches).sum())
    share = members / (members + holdout)
    p_value = (
        float(stats.binomtest(first, first + second, share, alternative="greater").pvalue) if first + second else 1.0
    )
    return SetTest(int(member_matches.sum()), int(holdout_matches.sum()), first, second, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order of `p_values`, each the result of one test."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.maximum.accumulate(np.minimum(1.0, np.asarray(p_values)[order] * factors))
    result = np.empty(len(p_values))
    result[order] = adjusted
    return result.tolist()
