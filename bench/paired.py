"""The paired excess of two conditions on simulated matches whose truth is known: error rates of its test, and its coverage.

`python -m bench.paired [RUNS]` draws images, copies and samples anew RUNS (5,000) times per case. Every image of the population,
member or not, is matched by chance at a rate of its own; samples that crowd match a few images often, and blank images are
matched all at once. Copies are matches of some members beyond that.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from side_ray.statistics.evidence.excess import Excess, compare, excess
from side_ray.statistics.evidence.pool import Competition, PoolShape


@dataclass(frozen=True)
class Pair:
    """Two conditions of one model."""

    members: int = 300
    unseen: int = 600
    samples: int = 2000
    chance: float = 0.002
    """Share of the samples that match a member by chance."""
    skew: float = 0.0
    """Gamma shape of the images' rates of chance matches, so small is skewed; 0 if all are alike."""
    blank: float = 0.0
    """Share of the images that are blank."""
    blanks: float = 0.05
    """Share of the samples that are, where there are blank images."""
    planted: float = 0.1
    """Share of the members that are copied, each at a rate of its own."""
    copies: tuple[float, float] = (0.0, 0.0)
    """Share of the samples that are copies, by condition."""
    apart: bool = False
    """Whether the two conditions crowd at different images, so that they resemble different ones by chance."""
    alike: float = 0.5
    """Share of the samples whose noise decides alike in both conditions."""


CASES = {
    "nothing": Pair(),
    "nothing, loose cut": Pair(chance=0.03),
    "nothing, skewed": Pair(chance=0.01, skew=0.1),
    "nothing, skewed, d = m": Pair(unseen=300, chance=0.01, skew=0.1),
    "nothing, skewed, d = 5 m": Pair(unseen=1500, chance=0.01, skew=0.1),
    "nothing, blanks": Pair(blank=0.2),
    "few matches": Pair(chance=0.0005),
    "equal copies": Pair(copies=(0.03, 0.03)),
    "equal copies, few": Pair(planted=0.02, copies=(0.002, 0.002)),
    "equal copies, skewed, d = m": Pair(unseen=300, chance=0.01, skew=0.1, copies=(0.03, 0.03)),
    "equal copies, skewed, d = 5 m": Pair(unseen=1500, chance=0.01, skew=0.1, copies=(0.03, 0.03)),
    "equal copies, blanks": Pair(blank=0.2, copies=(0.03, 0.03)),
    "equal copies, crowds apart": Pair(chance=0.005, skew=0.5, copies=(0.03, 0.03), apart=True),
    "nothing, crowds apart": Pair(chance=0.005, skew=0.5, apart=True),
    "more copies": Pair(copies=(0.02, 0.05)),
    "more copies, skewed": Pair(chance=0.01, skew=0.1, copies=(0.02, 0.05)),
    "more copies, d = 5 m": Pair(unseen=1500, chance=0.01, copies=(0.01, 0.02)),
    "few more copies": Pair(planted=0.02, copies=(0.001, 0.005)),
    "everything copied": Pair(planted=1.0, copies=(0.8, 0.9)),
}


def trials(pair: Pair, runs: int, seed: int = 0) -> Iterator[tuple[Excess, Excess]]:
    """Independent draws of the two conditions."""
    shape = PoolShape.plain(pair.members, pair.unseen)
    for run in range(runs):
        rng = np.random.default_rng((seed, run))
        planted = np.where(rng.random(pair.members) < pair.planted, rng.gamma(1.0, size=pair.members), 0.0)
        blank = np.flatnonzero(rng.random(pair.members + pair.unseen) < pair.blank)
        rates = [_chance(pair, rng)]
        rates.append(_chance(pair, rng) if pair.apart else rates[0])
        draws = [rng.random(pair.samples), rng.random(pair.samples)]
        draws[1] = np.where(rng.random(pair.samples) < pair.alike, *draws)
        first, second = (
            excess(_match(draw, by_chance, share * planted / max(planted.sum(), 1e-9), blank, pair.blanks), shape)
            for draw, by_chance, share in zip(draws, rates, pair.copies, strict=True)
        )
        yield first, second


def _chance(pair: Pair, rng: np.random.Generator) -> np.ndarray:
    size = pair.members + pair.unseen
    popular = rng.gamma(pair.skew, size=size) / pair.skew if pair.skew else np.ones(size)
    return popular * pair.chance / pair.members


def _match(
    draw: np.ndarray, by_chance: np.ndarray, copied: np.ndarray, blank: np.ndarray, blanks: float
) -> Competition:
    """Each sample is a copy, or blank, or matches one image by chance, or none."""
    ends = np.cumsum(np.concatenate([copied, by_chance]))
    origin = np.searchsorted(ends, draw, side="right")
    rows = np.flatnonzero(origin < ends.size)
    images = origin[rows]
    images = np.where(images < copied.size, images, images - copied.size)
    if blank.size:
        white = np.flatnonzero(draw > 1 - blanks)
        rows = np.concatenate([rows, np.repeat(white, blank.size)])
        images = np.concatenate([images, np.tile(blank, white.size)])
    return Competition(np.zeros(draw.size, np.int64), np.zeros(draw.size, np.float32), rows, images)


def summary(pair: Pair, runs: int) -> dict[str, float]:
    """How often the test finds a difference, the coverage of its interval, and how often a report would claim one: only where the
    second condition's own excess is established."""
    truth, counts = pair.copies[1] - pair.copies[0], np.zeros(4)
    for first, second in trials(pair, runs):
        found = compare(second, first)
        counts += (
            found.p_value < 0.05,
            found.p_value < 0.001,
            found.ci[0] <= truth <= found.ci[1],
            second.established and found.ci[0] > 0,
        )
    names = ("p_below_5_percent", "p_below_0.1_percent", "covered", "claimed")
    return dict(zip(names, (counts / runs).tolist(), strict=True))


def main(arguments: list[str]) -> None:
    runs = int(arguments[0]) if arguments else 5000
    for name, pair in CASES.items():
        numbers = summary(pair, runs)
        print(f"{name:32}" + "  ".join(f"{key} {value:.4f}" for key, value in numbers.items()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
