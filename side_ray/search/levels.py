"""Levels of similarity that a search counts at."""

from dataclasses import dataclass

import numpy as np

Edge = float | None


@dataclass(frozen=True)
class Levels:
    """Consecutive intervals of closeness; level i holds `edges[i] <= closeness < edges[i + 1]`, the last one is open."""

    edges: np.ndarray
    """float32 [m], ascending."""
    labels: tuple[tuple[str, ...], ...]
    """For each level, the names of the bands that it belongs to: none, one, or two with the calibrated cut."""
    larger_is_closer: bool

    def assign(self, values: np.ndarray) -> np.ndarray:
        """Level of each value (any shape, rounded to float32); -1 for what is farther than every level, and for NaN."""
        closeness = closeness_of(values, self.larger_is_closer)
        level = np.searchsorted(self.edges, closeness, side="right").astype(np.int64) - 1
        return np.where(np.isnan(closeness), -1, level)

    def reaches_beyond(self, value: float) -> bool:
        """Whether a value farther than `value`, or equal to it, can lie in a level that has a name."""
        named = [edge for edge, names in zip(self.edges, self.labels, strict=True) if names]
        return bool(named) and bool(min(named) <= closeness_of(np.float32(value), self.larger_is_closer))

    def named(self, name: str) -> np.ndarray:
        """bool [m]: which levels belong to the band `name`."""
        return np.array([name in names for names in self.labels], bool)


def closeness_of(values: np.ndarray | np.floating, larger_is_closer: bool) -> np.ndarray:
    """float32 values, negated where smaller is closer, so that larger always means closer."""
    rounded = np.asarray(values, np.float32)
    return rounded if larger_is_closer else -rounded
