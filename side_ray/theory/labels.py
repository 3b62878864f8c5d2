"""The effect of informative labels on latents: Proposition 1 and Theorem 2, per label and on average.

Eq. 7 holds for every label, since the mean minimizes squared distances. Eq. 8 and Theorem 2 hold on average over the labels (law
of total covariance) and may fail for one: for example, a class without the points near the mean is wider than the whole set.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LabelEffect:
    """The quantities that Proposition 1 and Theorem 2 compare, for one label."""

    label: int
    count: int
    """Latents |D_{y=c}|."""
    own_scatter: float
    """Σ ‖z_i − μ_c‖², the left side of Eq. 7."""
    overall_scatter: float
    """Σ ‖z_i − μ‖², its right side."""
    trace: float
    """Tr Σ_c, the left side of Eq. 8 (the nuclear norm of a covariance is its trace)."""
    ratio: float
    """Eq. 145, the limit of Eq. 9 for ε → 0."""

    @property
    def tighter(self) -> bool:
        """Eq. 7."""
        return self.own_scatter <= self.overall_scatter

    def narrower(self, overall_trace: float) -> bool:
        """Eq. 8."""
        return self.trace <= overall_trace

    @property
    def memorizes_more(self) -> bool:
        """Theorem 2, Eq. 9."""
        return self.ratio <= 1


@dataclass(frozen=True)
class LabelledLatents:
    """All labels of one labelling of one set of latents."""

    trace: float
    """Tr Σ of all latents, the right side of Eq. 8."""
    labels: tuple[LabelEffect, ...]

    @property
    def mean_trace(self) -> float:
        """Σ_c p_c · Tr Σ_c, p_c the share of label c: never above `trace`."""
        total = sum(each.count for each in self.labels)
        return sum(each.count * each.trace for each in self.labels) / total

    @property
    def explained(self) -> float:
        """Share of the variance that the labels explain, 1 − mean_trace / trace, in 0 … 1."""
        return 1 - self.mean_trace / self.trace

    @property
    def pooled_ratio(self) -> float:
        """Eq. 145 with numerator and denominator summed over the labels; it equals mean_trace / trace, so it is at most 1."""
        above = sum(each.own_scatter + each.count * each.trace for each in self.labels)
        below = sum(each.overall_scatter + each.count * self.trace for each in self.labels)
        return above / below

    @property
    def mean_ratio(self) -> float:
        """Σ_c p_c · ratio_c: at most 1 as well, because the ratio is concave in Tr Σ_c and falls with the distance of the
        means."""
        total = sum(each.count for each in self.labels)
        return sum(each.count * each.ratio for each in self.labels) / total

    def exceptions(self) -> list[LabelEffect]:
        """Labels for which Eq. 8 or Theorem 2 fails."""
        return [each for each in self.labels if not (each.narrower(self.trace) and each.memorizes_more)]


def label_effects(latents: NDArray[np.floating], labels: NDArray[np.int64]) -> LabelledLatents:
    """Both sides of Eq. 7 and 8 and the ratio of Eq. 145, for every label in `labels`.

    In Eq. 145 the trace is inside the sum over i, as in Eq. 143. Covariances are divided by the number of latents (Eq. 111, 116).

    Args:
        latents: z_i, [N, d].
        labels: [N].

    Raises:
        ValueError: not one label per latent, or all latents are the same.
    """
    if len(latents) != len(labels):
        raise ValueError(f"one label per latent, got {len(latents)} latents and {len(labels)} labels")
    mean = latents.mean(axis=0, dtype=np.float64)
    squares = ((latents - mean) ** 2).sum(axis=1, dtype=np.float64)
    trace = float(squares.mean())
    if trace == 0:
        raise ValueError("all latents are the same")
    effects = []
    for label in np.unique(labels):
        chosen = np.flatnonzero(labels == label)
        own_mean = latents[chosen].mean(axis=0, dtype=np.float64)
        own = float(((latents[chosen] - own_mean) ** 2).sum(dtype=np.float64))
        overall = float(squares[chosen].sum())
        count = len(chosen)
        ratio = 2 * own / (overall + count * trace)
        effects.append(LabelEffect(int(label), count, own, overall, own / count, ratio))
    return LabelledLatents(trace, tuple(effects))
