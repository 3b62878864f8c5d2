"""Growth of the number of distinct training images with N_G: measured, expected, and a simultaneous band."""

from dataclasses import dataclass

import numpy as np

from side_ray.statistics.richness import rarefy


@dataclass(frozen=True)
class Growth:
    """One condition's curve; arrays float64 [points]."""

    m: np.ndarray
    """Numbers of samples, ascending."""
    measured: np.ndarray
    """Distinct images among the first m samples."""
    expected: np.ndarray
    """Eq. 150 in its exact finite-sample form."""
    low: np.ndarray
    high: np.ndarray
    """The simultaneous band: 95 % of all orders of the samples are inside it at *every* m."""
    p_value: float
    """Share of the orders whose largest departure from the expectation is at least that of the measured curve."""

    @property
    def inside(self) -> bool:
        """Whether the measured curve is in the band everywhere."""
        return bool(((self.low <= self.measured) & (self.measured <= self.high)).all())


def growth(
    sample_ids: np.ndarray, train_ids: np.ndarray, n: int, *, points: int = 40, orders: int = 2000, seed: int = 0
) -> Growth:
    """The growth of distinct training images over n samples (Eq. 147–150, the paper's Figure 5).

    Samples of one condition are exchangeable, so their n! orders are equally likely: the expectation over these is the
    rarefaction curve, and random orders of the same samples give its band. The band is expectation ± q standard deviations, q the
    95 % quantile over the orders of the largest departure.

    Args:
        sample_ids, train_ids: int64 [pairs], the distinct matching pairs (sample 0 … n − 1, training image).
        n: number of samples.
        points: approximate number of m. They exclude n, where all orders give the same number.
        orders: number of random orders.
    """
    m = np.unique(np.linspace(1, n - 1, points).round().astype(np.int64))
    by_image = np.lexsort((sample_ids, train_ids))
    samples, images = sample_ids[by_image], train_ids[by_image]
    starts = np.flatnonzero(np.r_[True, images[1:] != images[:-1]]) if images.size else np.empty(0, np.int64)
    counts = np.diff(np.r_[starts, images.size])
    rng = np.random.default_rng(seed)
    drawn = np.stack([_distinct(rng.permutation(n), samples, starts, m) for _ in range(orders)])
    measured = _distinct(np.arange(n), samples, starts, m)
    expected = rarefy(counts, n, m)
    spread = drawn.std(axis=0)
    spread = np.where(spread > 0, spread, np.inf)  # no departure where all orders give the same number
    departures = (np.abs(drawn - expected) / spread).max(axis=1, initial=0.0)
    worst = float((np.abs(measured - expected) / spread).max(initial=0.0))
    half = np.quantile(departures, 0.95, method="higher") * np.where(np.isfinite(spread), spread, 0.0)
    # Rounding of the expectation is not a departure where all orders agree.
    slack = 1e-6
    return Growth(
        m.astype(np.float64),
        measured,
        expected,
        expected - half - slack,
        expected + half + slack,
        float((departures >= worst).mean()),
    )


def _distinct(position: np.ndarray, samples: np.ndarray, starts: np.ndarray, m: np.ndarray) -> np.ndarray:
    """Distinct images among the first m samples where sample i comes at `position[i]`; float64 [points]."""
    if not starts.size:
        return np.zeros(m.size)
    first = np.sort(np.minimum.reduceat(position[samples], starts))
    return np.searchsorted(first, m, side="left").astype(np.float64)
