"""The calibrated cut: the value that one generated image in a thousand reaches against images that the model never saw."""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy import stats

from side_ray.search import closeness_of


@dataclass(frozen=True)
class Cut:
    """The value that a match must reach (at most for nL2, at least for SSCD)."""

    value: float
    """Exactly representable in float32."""
    rank: int
    """The cut is the `rank`-th best of the `n` values."""
    n: int
    false_match_rate: float
    """The requested rate."""
    known: bool
    """False if n is too small for the rate (n · rate < 1): the cut is then the best of all values."""
    rate_ci: tuple[float, float]
    """95 % interval of the true false-match rate at this cut: at the `rank`-th of n order statistics it has a beta
    distribution."""


def calibrated_cut(best: np.ndarray, false_match_rate: float = 0.001, *, larger_is_closer: bool) -> Cut:
    """The ⌊n · rate⌋-th best value of generated images against images that the model never saw.

    Args:
        best: float32 [n], each generated image's best value against the `calibration` set.
        false_match_rate: share of generated images that may reach the cut by chance, in (0, 1).
        larger_is_closer: direction of the similarity.

    Raises:
        ValueError: `best` is empty or holds NaN, or the rate is not in (0, 1).
    """
    if best.size == 0 or np.isnan(best).any():
        raise ValueError("the cut needs at least one value, and no NaN")
    if not 0 < false_match_rate < 1:
        raise ValueError(f"false_match_rate must be in (0, 1), not {false_match_rate}")
    n = int(best.size)
    # The rate as the decimal that was written: in binary, 10,000 · 0.0003 is slightly below 3.
    wanted = math.floor(n * Fraction(repr(float(false_match_rate))))
    rank = max(wanted, 1)
    closeness = closeness_of(best, larger_is_closer)
    value = np.partition(closeness, n - rank)[n - rank]
    low, high = stats.beta.ppf([0.025, 0.975], rank, n - rank + 1)
    return Cut(
        value=float(value if larger_is_closer else -value),
        rank=rank,
        n=n,
        false_match_rate=false_match_rate,
        known=wanted >= 1,
        rate_ci=(float(low), float(high)),
    )
