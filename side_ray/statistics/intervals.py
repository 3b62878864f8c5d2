"""Confidence intervals for shares and for numbers of distinct images, and the paired test between conditions."""

from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats


def clopper_pearson(count: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact binomial interval of a share; its coverage is at least `level` for every share.

    Args:
        count: samples that match, 0 … n.
        n: samples.

    Returns:
        Lower and upper limit in [0, 1].
    """
    tail = (1 - level) / 2
    low = float(stats.beta.ppf(tail, count, n - count + 1)) if count > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, count + 1, n - count)) if count < n else 1.0
    return low, high


def poisson_limits(count: float, level: float = 0.95) -> tuple[float, float]:
    """Garwood's exact interval of a Poisson mean; `count` may be fractional."""
    tail = (1 - level) / 2
    low = float(stats.chi2.ppf(tail, 2 * count)) / 2 if count > 0 else 0.0
    return low, float(stats.chi2.ppf(1 - tail, 2 * count + 2)) / 2


def mid_p_limits(count: float, level: float = 0.95) -> tuple[float, float]:
    """The mid-P interval of a Poisson mean (Lancaster 1961; Barker 2002, Am. Stat. 56); `count` may be fractional.

    Its coverage is `level` on average; that of Garwood's is at least `level` for every mean, and above it for small ones.
    """
    tail = (1 - level) / 2
    if count > 1e6:
        half = float(stats.norm.isf(tail) * np.sqrt(count))
        return count - half, count + half

    def below(mean: float) -> float:
        """P(X < count) + P(X = count) / 2."""
        return float(special.gammaincc(count + 1, mean) + (special.gammaincc(count, mean) if count else 0.0)) / 2

    # Garwood's limits are outside of these.
    least, most = poisson_limits(count, level)
    low = optimize.brentq(lambda mean: below(mean) - (1 - tail), least, count) if below(least) > 1 - tail else 0.0
    return low, optimize.brentq(lambda mean: below(mean) - tail, count, most)


def distinct_interval(
    counts: np.ndarray, n: int, *, only_sample: np.ndarray | None = None, limit: int | None = None, level: float = 0.95
) -> tuple[float, float]:
    """Interval of the expected number of distinct training images that n samples hit (N_G · UMS, Eq. 148).

    The variance is analytic, from the incidences: V = Σ_j u_j² − Q₁²/n, where u_j is the number of training images that
    sample j alone hits and Q₁ = Σ u_j those hit by exactly one sample (Heltshe & Forrester 1983, the jackknife variance of
    a species count; by Efron & Stein 1981 its expectation is never below the true variance). Colwell et al. (2012) put
    S·(1 − S/Chao2) in its place, which assumes that a sample hits training images independently, and is too small
    if there are few or their rates differ much; the limits below have the nominal coverage in simulations of even, skewed and
    mixed pools. The count of images hit once is treated as (overdispersed) Poisson, the rest as fixed. If almost nothing is
    hit once, the expectation can still be up to one image below the count.

    Args:
        counts: int [S], number of samples that hit each hit training image, ≥ 1.
        n: number of samples.
        only_sample: int [S], one sample that hit each image. For images hit once it shows which were hit by the same
            sample. Without it hits are assumed independent.
        limit: size of the training set.

    Returns:
        Lower and upper limit of the expected number of distinct images.
    """
    distinct = int(counts.size)
    once = counts == 1
    singles = int(once.sum())
    squares = float(singles)
    if only_sample is not None and singles:
        squares = float((np.unique(only_sample[once], return_counts=True)[1].astype(float) ** 2).sum())
    spread = squares / singles if singles else 1.0
    # This many independent events of `spread` images each have the same variance.
    variance = max(squares - singles**2 / n, 0.0)
    events = variance / spread**2
    low, high = poisson_limits(events, level)
    lower = distinct - spread * max(events - low, 1.0)
    upper = distinct + spread * (high - events)
    return max(lower, 0.0), upper if limit is None else min(upper, float(limit))


@dataclass(frozen=True)
class McNemar:
    """McNemar's test of two conditions whose samples share their noise."""

    both: int
    only_a: int
    only_b: int
    neither: int
    p_value: float
    """Two-sided, exact binomial on the discordant samples; 1 where there are none."""


def mcnemar(match_a: np.ndarray, match_b: np.ndarray) -> McNemar:
    """McNemar's exact test whether two paired conditions match equally often.

    Args:
        match_a, match_b: bool [N], whether sample i of each condition matches; i shares its seed in both.

    Raises:
        ValueError: the conditions differ in N.
    """
    if match_a.shape != match_b.shape:
        raise ValueError(f"paired conditions need equally many samples, not {match_a.size} and {match_b.size}")
    only_a, only_b = int((match_a & ~match_b).sum()), int((match_b & ~match_a).sum())
    both = int((match_a & match_b).sum())
    p_value = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return McNemar(both, only_a, only_b, int(match_a.size) - both - only_a - only_b, p_value)
