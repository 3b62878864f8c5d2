"""The verdict: one rule, applied once, before any wording.

1. *found*: at least one training image is revealed at a false discovery rate of 5 % (`decoys`), over all conditions. Some of them
   are *copied* too: within the cut of their stratum. Revealed means that the samples come closer than chance allows; copied
   means that a person sees the copy.
2. Fewer images than ⌈(m/d)/5 %⌉ cannot be counted at that rate. Then `decoys.TopTest`, at 1 %, may still say *found*.
3. *cannot say*: there are no unseen images; or the samples come closer to unseen images than to members, so that the two are
   not of one kind; or even a fifth of the members, memorised, would have gone unnoticed; or what would be *found* may come from
   the members' captions, with which all samples were drawn; or a similarity takes unseen images for exact copies.
4. *none found* otherwise, with the smallest share of memorised members that this audit would have shown with 80 % power.

By chance alone *found* has a probability below 6 %, by the two error rates; in simulations it was 0–2 % (`bench/verdict.py`).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy import stats

from side_ray.statistics.evidence.decoys import Entrants, TopTest, entrants, q_values
from side_ray.statistics.evidence.pool import Competition, PoolShape
from side_ray.statistics.evidence.strata import stratum_cuts

FDR = 0.05
ALPHA = 0.01
POWER = 0.8
MOST_HIDDEN = 0.2
"""*none found* is not said where a larger share of memorised members would have gone unnoticed."""
PLANTINGS = 2_000
Outcome = Literal["found", "none_found", "cannot_say"]


@dataclass(frozen=True)
class Verdict:
    """The conclusion of an audit, as in metrics.json."""

    outcome: Outcome
    distinct: int
    """Distinct training images revealed at `fdr`; 1 (at least) where only the permutation test found something."""
    distinct_ci: tuple[float, float]
    """95 %: how many of these are real, and how many more the samples come closer to than chance allows."""
    fdr: float
    copied: int
    """Those of them within the cut of their stratum."""
    smallest_claimable: int | None
    """Fewer images cannot be counted at `fdr`."""
    p_value: float | None
    """Of the permutation test that decides where nothing can be counted."""
    detectable: float | None
    """The smallest share of memorised members that would have been found with 80 % power; null where none would."""
    reason: str
    """Why: counted | few | none | no_unseen | not_alike | too_small | captions | same."""
    remedy: str
    """What to change in the config where the outcome is *cannot say*; otherwise empty."""
    stratum_rate: float | None
    """The rate of the strata's own cuts; null where `copied` is counted at the calibrated cut."""

    def as_dict(self) -> dict[str, Any]:
        """As in metrics.json."""
        return asdict(self) | {"distinct_ci": list(self.distinct_ci)}


@dataclass(frozen=True)
class Judgement:
    """The verdict and, for every group that takes part, what it rests on."""

    verdict: Verdict
    pool: Entrants
    q: np.ndarray
    """float64 [G]."""
    copied: np.ndarray
    """bool [G]."""


def judge(shape: PoolShape, competitions: Sequence[Competition], cut: float, rate: float) -> Judgement:
    """The verdict over all conditions of an audit.

    Args:
        cut: closeness at the calibrated cut.
        rate: the false-match rate of the config.
    """
    pool = entrants(shape, competitions)
    decoys = int((~pool.is_member).sum())
    samples = sum(each.size for each in competitions)
    if not decoys or not pool.is_member.any():
        verdict = without_unseen(shape.members)
        return Judgement(verdict, pool, np.ones(pool.score.size), np.zeros(pool.score.size, bool))
    q = q_values(pool)
    cuts, stratum_rate = stratum_cuts(pool, rate, cut)
    revealed = pool.is_member & (q <= FDR)
    copied = revealed & (pool.score >= cuts[pool.stratum])
    claimable = math.ceil(pool.ratio / FDR - 1e-9)
    test = TopTest.of(pool, 2 * claimable)
    p_value = test.p_value
    detectable = _detectable(pool, test, claimable, samples)
    outcome, reason, remedy = _decide(pool, int(revealed.sum()), p_value, detectable)
    distinct = max(int(revealed.sum()), int(outcome == "found"))
    interval = _interval(pool, q, distinct)
    verdict = Verdict(
        outcome,
        distinct,
        interval,
        FDR,
        int(copied.sum()),
        claimable,
        p_value,
        detectable,
        reason,
        remedy,
        stratum_rate,
    )
    return Judgement(verdict, pool, q, copied)


def without_unseen(members: int) -> Verdict:
    """The verdict where there are no unseen images to compare with."""
    remedy = "give images that the model never saw: data.holdout, or --unseen for given samples"
    return Verdict("cannot_say", 0, (0.0, float(members)), FDR, 0, None, None, None, "no_unseen", remedy, None)


def with_members_captions(verdict: Verdict) -> Verdict:
    """The verdict where every sample was drawn with the caption of a member: a caption describes its image, so samples come
    closer to members than to unseen images also where nothing is memorised. That is no evidence for *found*."""
    if verdict.outcome != "found":
        return verdict
    return replace(verdict, outcome="cannot_say", reason="captions", remedy=_CAPTIONS)


def without_distinction(verdict: Verdict) -> Verdict:
    """The verdict where unseen images come as close as an exact copy would: copies cannot lead them, so *none found* and its
    power say nothing."""
    if verdict.outcome != "none_found":
        return verdict
    return replace(verdict, outcome="cannot_say", detectable=None, reason="same", remedy=_OTHER)


_OTHER = "choose a score.similarity that tells these images apart"
_CAPTIONS = "set dpm.prompts=captions, which draws those of members and unseen images alike"
_LARGER = "raise data.holdout (unseen images), or extract.samples"
_ALIKE = "check that members and unseen images are of one kind: data.holdout_path, duplicates, preprocessing"


def _decide(pool: Entrants, revealed: int, p_value: float, detectable: float | None) -> tuple[Outcome, str, str]:
    if revealed:
        return "found", "counted", ""
    if p_value <= ALPHA:
        return "found", "few", ""
    mirrored = replace(pool, is_member=~pool.is_member)
    depth = 2 * math.ceil(mirrored.ratio / FDR)
    if TopTest.of(mirrored, depth).p_value <= ALPHA:
        return "cannot_say", "not_alike", _ALIKE
    if detectable is None or detectable > MOST_HIDDEN:
        return "cannot_say", "too_small", _LARGER
    return "none_found", "none", ""


def _detectable(pool: Entrants, test: TopTest, claimable: int, samples: int) -> float | None:
    """The smallest share of members that, memorised, the rule would have found with 80 % power.

    A memorised member that some sample copies leads its stratum and the whole ranking. So the rule finds the plantings if their
    number comes to what can be counted at the FDR, or if enough of them lead for the permutation test. With N samples in all a
    memorised member is copied with probability 1 − (1 − 1/m)^N, as by a model that emits every training image equally often.
    None where all members would not be enough.
    """
    rng, members = np.random.default_rng(0), int(pool.is_member.sum())
    shown = -math.expm1(samples * math.log1p(-1 / members)) if members > 1 else 1.0
    needed = np.array([test.leading(m, d) for _, m, d in test.rankings])
    strata = np.array([m for _, m, _ in test.rankings][: len(np.unique(pool.stratum))])

    def power(count: int) -> float:
        copied = rng.binomial(rng.multivariate_hypergeometric(strata, count, PLANTINGS), shown)
        total = copied.sum(axis=1)
        led = (copied >= needed[: strata.size]).any(axis=1) | (total >= needed[-1])
        return float((led | (total >= claimable)).mean())

    if power(members) < POWER:
        return None
    low, high = 0, members
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high / members


def _interval(pool: Entrants, q: np.ndarray, distinct: int) -> tuple[float, float]:
    """95 % limits of the number of revealed images.

    Below: the revealed ones less the false ones, whose number given D decoys among them is at most negative binomial. Above:
    the largest T − (m/d) · D over all thresholds, plus two of its standard deviations, for images that stay below the FDR.
    """
    ratio = pool.ratio
    share = 1 / (1 + ratio)
    revealed = q <= FDR
    if not revealed.any():
        low = float(min(distinct, 1))
    else:
        # At the threshold FDR = ratio · (D + 1) / T, so D + 1 ≤ FDR · T / ratio.
        false = float(stats.nbinom.ppf(0.975, max(math.floor(FDR * distinct / ratio), 1), share))
        low = max(distinct - false, 1.0)
    won = np.isfinite(pool.score)
    order = np.argsort(-pool.score[won], kind="stable")
    member = pool.is_member[won][order]
    targets, decoys = np.cumsum(member), np.cumsum(~member)
    beyond = targets - ratio * decoys + 1.96 * np.sqrt(ratio * (1 + ratio) * (decoys + 1))
    high = min(float(beyond.max(initial=0.0)), float(pool.is_member.sum()))
    return low, max(high, float(distinct))
