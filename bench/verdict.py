"""The verdict on simulated victims whose truth is known: how often it is right, and whether its intervals and rates hold.

`python -m bench.verdict [RUNS]` draws members, unseen images and samples anew RUNS (500) times per case. Images are points of a
population with kinds of its own: broad ones, a tight one (like the digit 1), and near-identical blanks. A victim is a generator
that never saw the members, mixed with noisy copies of some of them, each at a rate of its own.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from side_ray.search import Neighbors
from side_ray.similarity.nl2 import Nl2
from side_ray.statistics.evidence.excess import Difference, Excess, compare, excess
from side_ray.statistics.evidence.pool import Competition, PoolShape, compete
from side_ray.statistics.evidence.strata import learn, merge_small
from side_ray.statistics.evidence.verdict import FDR, Judgement, judge

DIMENSION, KINDS, NEAREST = 8, 3, 50


@dataclass(frozen=True)
class Victim:
    """One case: its sizes, and what is true of its model."""

    members: int = 300
    unseen: int = 600
    samples: int = 2000
    planted: float = 0.0
    """Share of the population that the model copies if it is a member."""
    copies: float = 0.0
    """Expected share of the samples that are copies."""
    tight: float = 0.12
    blank: float = 0.0
    modes: float = 0.0
    """Share of the samples that crowd at 20 points of the population: a skewed generator that still never saw a member."""
    cut: float = 0.6
    far_kind: bool = False
    """Whether the planted members are all of one broad kind."""
    paired: bool = False
    """Whether a second condition that does not differ is sampled too."""


CASES = {
    "nothing, d = m": Victim(unseen=300),
    "nothing, d = 2 m, loose cut": Victim(cut=0.8, paired=True),
    "nothing, d = 5 m": Victim(unseen=1500),
    "nothing, d = 5 m, loose cut": Victim(unseen=1500, cut=0.8),
    "nothing, skewed, blanks, d = m": Victim(unseen=300, blank=0.2, modes=0.3),
    "nothing, skewed, blanks, d = 5 m": Victim(unseen=1500, blank=0.2, modes=0.3),
    "nothing, skewed, blanks, d = m, loose cut": Victim(unseen=300, blank=0.2, modes=0.3, cut=0.8),
    "nothing, skewed, blanks, d = 5 m, loose cut": Victim(unseen=1500, blank=0.2, modes=0.3, cut=0.8),
    "10 % planted, d = m": Victim(unseen=300, planted=0.1, copies=0.05),
    "10 % planted, d = 2 m": Victim(planted=0.1, copies=0.05, paired=True),
    "10 % planted, d = 5 m": Victim(unseen=1500, planted=0.1, copies=0.05),
    "10 % planted, skewed, blanks, d = m": Victim(unseen=300, planted=0.1, copies=0.05, blank=0.2, modes=0.3),
    "10 % planted, skewed, blanks, d = 5 m": Victim(unseen=1500, planted=0.1, copies=0.05, blank=0.2, modes=0.3),
    "half blank, one kind planted": Victim(planted=0.8, copies=0.15, blank=0.5, far_kind=True),
    "30 % planted": Victim(planted=0.3, copies=0.1),
    "everything planted": Victim(planted=1.0, copies=0.9),
}


@dataclass(frozen=True)
class Trial:
    """One draw of a case."""

    judgement: Judgement
    excess: Excess
    difference: Difference | None
    """Of two conditions that do not differ; None where there is one condition only."""
    planted: np.ndarray
    """int64, the members that the model copies."""

    @property
    def false_share(self) -> float:
        """Share of the revealed images that the model does not copy; 0 without any."""
        revealed = self.judgement.pool.group[self.judgement.pool.is_member & (self.judgement.q <= FDR)]
        return float((~np.isin(revealed, self.planted)).mean()) if revealed.size else 0.0


def trials(victim: Victim, runs: int, seed: int = 0) -> Iterator[Trial]:
    """Independent draws of one case."""
    for run in range(runs):
        rng = np.random.default_rng((seed, run))
        images, kinds = _population(victim, rng, victim.members + victim.unseen)
        rates = _rates(victim, rng, kinds[: victim.members])
        strata = learn(_samples(victim, rng, images, rates).astype(np.float32), len(images))
        strata = merge_small(strata, strata.assign(images.astype(np.float32)))
        shape = replace(
            PoolShape.plain(victim.members, victim.unseen),
            stratum=strata.assign(images.astype(np.float32)),
            typical=_typical(images),
        )
        first = _compete(victim, _samples(victim, rng, images, rates), images)
        one, difference = excess(first, shape), None
        if victim.paired:
            other = _compete(victim, _samples(victim, rng, images, rates), images)
            difference = compare(excess(other, shape), one)
        yield Trial(judge(shape, [first], -victim.cut, 0.001), one, difference, np.flatnonzero(rates))


def _rates(victim: Victim, rng: np.random.Generator, kinds: np.ndarray) -> np.ndarray:
    """The probability that a sample copies each member: 0 for most, and otherwise independent of the other members."""
    chosen = (rng.random(kinds.size) < victim.planted) & ((kinds == 0) | (not victim.far_kind))
    expected = victim.planted * victim.members / (KINDS if victim.far_kind else 1)
    rates = np.where(chosen, rng.gamma(1.0, size=kinds.size), 0.0) * victim.copies / max(expected, 1.0)
    return rates / max(rates.sum(), 1.0)


def _population(victim: Victim, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    kinds, chance = rng.integers(0, KINDS, size), rng.random(size)
    points = 4 * np.random.default_rng(5).normal(size=(KINDS, DIMENSION))[kinds] + rng.normal(size=(size, DIMENSION))
    for kind, chosen, centre, width in (
        (KINDS, chance < victim.tight, 10.0, 0.15),
        (KINDS + 1, chance > 1 - victim.blank, -10.0, 1e-3),
    ):
        points[chosen] = centre + width * rng.normal(size=(int(chosen.sum()), DIMENSION))
        kinds[chosen] = kind
    return points, kinds


def _samples(victim: Victim, rng: np.random.Generator, images: np.ndarray, rates: np.ndarray) -> np.ndarray:
    points, _ = _population(victim, rng, victim.samples)
    crowded = rng.random(victim.samples) < victim.modes
    modes = _population(victim, rng, 20)[0]
    points[crowded] = modes[rng.integers(0, 20, crowded.sum())] + 0.1 * rng.normal(size=(crowded.sum(), DIMENSION))
    origin = np.searchsorted(np.cumsum(rates), rng.random(victim.samples), side="right")
    copied = origin < rates.size
    points[copied] = images[origin[copied]] + 0.1 * rng.normal(size=(int(copied.sum()), DIMENSION))
    return points


def _compete(victim: Victim, samples: np.ndarray, images: np.ndarray) -> Competition:
    precision = np.float64 if victim.blank else np.float32  # float32 does not tell blanks apart
    samples, images = samples.astype(precision), images.astype(precision)
    distances = samples @ (-2 * images.T)
    distances += (images**2).sum(1)
    distances += (samples**2).sum(1)[:, None]
    np.sqrt(np.maximum(distances, 0, out=distances), out=distances)
    return compete(
        _nearest(distances[:, : victim.members]),
        _nearest(distances[:, victim.members :]),
        victim.members,
        Nl2(),
        -victim.cut,
    )


def _typical(images: np.ndarray) -> np.ndarray:
    """float64 [m + d], the closeness of each image's nearest other one."""
    squares = (images**2).sum(1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * images @ images.T, 0))
    np.fill_diagonal(distances, np.inf)
    nearest = np.sort(np.partition(distances, NEAREST, axis=1)[:, : NEAREST - 1], axis=1)
    return -Nl2().values(Neighbors(np.zeros(nearest.shape, np.int64), nearest))[:, 0].astype(np.float64)


def _nearest(distances: np.ndarray) -> Neighbors:
    ids = np.argpartition(distances, NEAREST, axis=1)[:, :NEAREST]
    return Neighbors(ids, np.take_along_axis(distances, ids, 1))


def summary(found: list[Trial]) -> dict[str, float]:
    """Shares of the outcomes, the realised FDR, and the coverage of the intervals of the excess and of the paired difference."""
    outcomes = [each.judgement.verdict.outcome for each in found]
    truth = float(np.mean([each.excess.value for each in found]))
    p_values = [each.difference.p_value for each in found if each.difference]
    return {
        **{name: outcomes.count(name) / len(found) for name in ("found", "none_found", "cannot_say")},
        "distinct": float(np.mean([each.judgement.verdict.distinct for each in found])),
        "realised_fdr": float(np.mean([each.false_share for each in found])),
        "excess": truth,
        "covered": float(np.mean([each.excess.ci[0] <= truth <= each.excess.ci[1] for each in found])),
        "established": float(np.mean([each.excess.established for each in found])),
    } | ({"different": float(np.mean([p_value < 0.05 for p_value in p_values]))} if p_values else {})


def main(arguments: list[str]) -> None:
    runs = int(arguments[0]) if arguments else 500
    for name, victim in CASES.items():
        numbers = summary(list(trials(victim, runs)))
        print(f"{name:46}" + "  ".join(f"{key} {value:.4g}" for key, value in numbers.items()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
