"""Richness estimates: the number of distinct training images as a function of the number of samples.

The data are incidences: of n samples, Y_i hit training image i; one sample may hit several. Formulas are those of Colwell
et al. (2012), "Models and estimators linking individual-based and sample-based rarefaction, extrapolation and comparison
of assemblages", and of Chao & Jost (2012) for the coverage, as in the R package iNEXT (datatype incidence).
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import special, stats

LEAST_COVERAGE = 0.5
"""Sample coverage below which the images found say too little about the others."""


@dataclass(frozen=True)
class Chao2:
    """A lower bound on the number of training images that can be hit at all, for n → ∞ samples."""

    value: float
    ci: tuple[float, float]
    """95 % interval of the bound (log-normal, Chao 1987), not of the pool size, which may be larger."""
    variance: float
    unseen: float
    """Lower bound on the images not hit yet: `value` minus the number hit."""


def incidence_frequencies(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct counts k ≥ 1 (float64, ascending) and Q_k, the number of training images hit by exactly k samples."""
    values, frequencies = np.unique(counts, return_counts=True)
    return values.astype(np.float64), frequencies.astype(np.float64)


def rarefy(counts: np.ndarray, n: int, m: np.ndarray | int) -> np.ndarray:
    """E[distinct] among m of the n samples drawn without replacement; Eq. 150 in its exact finite-sample form.

    S(m) = Σ_i [1 − C(n − Y_i, m) / C(n, m)]: unbiased for the expected count at m. UMS of conditions with different N_G are
    compared at the smaller N_G with it.

    Args:
        counts: int [S], samples that hit each training image, 1 … n.
        n: number of samples.
        m: one or several numbers of samples, 0 … n.

    Returns:
        float64, of the shape of `m`.

    Raises:
        ValueError: an m outside 0 … n.
    """
    wanted = np.asarray(m, np.float64)
    if wanted.size and (wanted.min() < 0 or wanted.max() > n):
        raise ValueError(f"rarefaction needs 0 ≤ m ≤ n = {n}")
    k, frequency = incidence_frequencies(counts)
    return ((1 - _missed(k, n, wanted[..., None])) * frequency).sum(-1)


def rarefaction_variance(counts: np.ndarray, n: int, m: np.ndarray | int) -> np.ndarray:
    """Unconditional variance of `rarefy`, with Chao2 as the pool size (Colwell et al. 2012, Eq. 5)."""
    wanted = np.asarray(m, np.float64)
    k, frequency = incidence_frequencies(counts)
    found = 1 - _missed(k, n, wanted[..., None])
    total = (found * frequency).sum(-1)
    pool = chao2(counts, n).value
    return np.maximum((found**2 * frequency).sum(-1) - (total**2 / pool if pool else 0.0), 0.0)


def _missed(k: np.ndarray, n: int, m: np.ndarray) -> np.ndarray:
    """C(n − k, m) / C(n, m), the probability that m of n samples miss an image that k of them hit."""
    possible = n - k - m >= 0
    rest = np.where(possible, n - k - m, 0.0)
    logs = (
        special.gammaln(n - k + 1) - special.gammaln(rest + 1) - special.gammaln(n + 1.0) + special.gammaln(n - m + 1)
    )
    return np.where(possible, np.exp(np.minimum(logs, 0.0)), 0.0)


def chao2(counts: np.ndarray, n: int) -> Chao2:
    """Chao2 from the images hit once (Q₁) and twice (Q₂); bias-corrected if none was hit twice.

    Raises:
        ValueError: n < 1.
    """
    if n < 1:
        raise ValueError("Chao2 needs at least one sample")
    distinct = int(counts.size)
    once, twice = float((counts == 1).sum()), float((counts == 2).sum())
    shrink = (n - 1) / n
    unseen = _unseen(once, twice, n)
    value = distinct + unseen
    if once and twice:
        ratio = once / twice
        variance = twice * (shrink / 2 * ratio**2 + shrink**2 * ratio**3 + shrink**2 / 4 * ratio**4)
    elif once:
        variance = (
            shrink * once * (once - 1) / 2
            + shrink**2 * once * (2 * once - 1) ** 2 / 4
            - shrink**2 * once**4 / (4 * value)
        )
        variance = max(variance, 0.0)
    else:
        missed = np.exp(-counts.sum() / distinct) if distinct else 0.0
        variance = float(distinct * missed * (1 - missed))
    return Chao2(value, _chao_interval(distinct, unseen, variance), float(variance), unseen)


def _unseen(once: float, twice: float, n: int) -> float:
    shrink = (n - 1) / n
    return shrink * once**2 / (2 * twice) if twice > 0 else shrink * once * (once - 1) / 2


def _chao_interval(distinct: int, unseen: float, variance: float) -> tuple[float, float]:
    z = float(stats.norm.ppf(0.975))
    if unseen <= 0:
        return float(distinct), distinct + z * float(np.sqrt(variance))
    factor = float(np.exp(z * np.sqrt(np.log1p(variance / unseen**2))))
    return distinct + unseen / factor, distinct + unseen * factor


def coverage(counts: np.ndarray, n: int) -> float:
    """Sample coverage: the probability that a future hit is on an image already hit (Chao & Jost 2012).

    Returns:
        In [0, 1]; 0 without any hit.
    """
    once, twice = float((counts == 1).sum()), float((counts == 2).sum())
    total = float(counts.sum())
    if not total:
        return 0.0
    if not once:
        return 1.0
    weight = (
        (n - 1) * once / ((n - 1) * once + 2 * twice) if twice else (n - 1) * (once - 1) / ((n - 1) * (once - 1) + 2)
    )
    return 1 - once / total * weight


def extrapolate(counts: np.ndarray, n: int, m: int) -> tuple[float, float]:
    """Expected number of distinct images with m ≥ n samples, and its variance; reliable up to about 2n.

    S(n + t) = S + f₀·[1 − (1 − Q₁/(n·f₀ + Q₁))^t] with f₀ of Chao2 (Colwell et al. 2012, Eq. 18), so it is a lower bound too.
    The variance is computed by the delta method over Q_k, whose covariances are Q_k(δ_kl − Q_l/Chao2).
    """
    if m < n:
        raise ValueError(f"extrapolation needs m ≥ n = {n}; use rarefy below")
    k, frequency = incidence_frequencies(counts)
    once, twice = float((counts == 1).sum()), float((counts == 2).sum())
    pool = counts.size + _unseen(once, twice, n)
    gradient = np.ones(k.size)
    step = 1e-4
    for which, at in ((1, (step, 0.0)), (2, (0.0, step))):
        # If no image was hit twice the estimator has another form, and is not smooth in Q₂.
        if (which == 1 and once) or (which == 2 and twice):
            rise = _added(once + at[0], twice + at[1], n, m - n) - _added(once - at[0], twice - at[1], n, m - n)
            gradient[k == which] += rise / (2 * step)
    mean = float((gradient * frequency).sum())
    variance = float((gradient**2 * frequency).sum()) - (mean**2 / pool if pool else 0.0)
    return float(counts.size + _added(once, twice, n, m - n)), max(variance, 0.0)


def _added(once: float, twice: float, n: int, more: int) -> float:
    unseen = _unseen(once, twice, n)
    if unseen <= 0:
        return 0.0
    return float(unseen * -np.expm1(more * np.log1p(-once / (n * unseen + once))))


def curve(counts: np.ndarray, n: int, *, points: int = 40, beyond: float = 2.0) -> list[dict[str, Any]]:
    """The rarefaction curve up to n and its extrapolation to `beyond` · n.

    Returns:
        Rows `{"m", "distinct", "ci": [lo, hi], "extrapolated"}`, ascending in m; normal 95 % intervals of the two variances.
    """
    z = float(stats.norm.ppf(0.975))
    inside = np.unique(np.linspace(1, n, points).round().astype(np.int64))
    means, variances = rarefy(counts, n, inside), rarefaction_variance(counts, n, inside)
    rows = [
        _point(int(m), float(mean), float(z * np.sqrt(variance)), False)
        for m, mean, variance in zip(inside, means, variances, strict=True)
    ]
    for m in np.unique(np.linspace(n, beyond * n, points // 2 + 1).round().astype(np.int64))[1:]:
        mean, variance = extrapolate(counts, n, int(m))
        rows.append(_point(int(m), mean, float(z * np.sqrt(variance)), True))
    return rows


def at_size(counts: np.ndarray, n: int, m: int) -> dict[str, Any]:
    """Expected distinct images and UMS for m ≤ n samples, to compare conditions of different N_G.

    Returns:
        `{"m", "distinct", "ci", "ums", "ums_ci"}`, 95 % intervals.
    """
    mean = float(rarefy(counts, n, m))
    half = float(stats.norm.ppf(0.975) * np.sqrt(rarefaction_variance(counts, n, m)))
    interval = [max(mean - half, 0.0), mean + half]
    return {"m": m, "distinct": mean, "ci": interval, "ums": mean / m, "ums_ci": [edge / m for edge in interval]}


def _point(m: int, mean: float, half: float, extrapolated: bool) -> dict[str, Any]:
    return {"m": m, "distinct": mean, "ci": [max(mean - half, 0.0), mean + half], "extrapolated": extrapolated}


def richness(counts: np.ndarray, n: int) -> dict[str, Any]:
    """All estimates of this module for one band, as in `metrics.json`.

    Returns:
        `distinct`, `hits` (Σ Y_i), `once`, `twice`, `coverage`, `chao2` (a lower bound: value, ci, variance, unseen), `curve`.
    """
    return {
        "distinct": int(counts.size),
        "hits": int(counts.sum()),
        "once": int((counts == 1).sum()),
        "twice": int((counts == 2).sum()),
        "coverage": coverage(counts, n),
        "chao2": asdict(chao2(counts, n)) | {"ci": list(chao2(counts, n).ci)},
        "curve": curve(counts, n),
    }
