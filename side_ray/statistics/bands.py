"""Bands of similarity, and which band a value lies in.

All comparisons are made in float32, the precision in which values are stored: edges are rounded to float32 first, so that
`best <= 1.35` on the stored values, in numpy or pandas, counts what side-ray counts.

*Closeness* is the value itself where larger is closer (SSCD) and its negative where smaller is closer (nL2).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from side_ray.config import Config
from side_ray.errors import UserError
from side_ray.search import Edge, Levels
from side_ray.similarity import SIMILARITIES
from side_ray.similarity.base import Similarity

CALIBRATED = "calibrated"
"""The name of the calibrated cut in hits and metrics."""

KEY = "score.bands"


@dataclass(frozen=True)
class Bands:
    """Adjoining closed intervals of one similarity, loosest first; an edge that two bands share belongs to the stricter one."""

    bands: dict[str, tuple[Edge, Edge]]
    larger_is_closer: bool

    @classmethod
    def make(
        cls, spec: str | Mapping[str, Sequence[Edge]] | None, similarity: Similarity | type[Similarity]
    ) -> "Bands":
        """Bands from a preset's name, or from `{name: [from, to], …}` in any order.

        Args:
            spec: None is the similarity's default preset; a None inside an interval is an open end.
            similarity: gives the presets and the direction.

        Raises:
            UserError: an unknown preset, an empty or reversed interval, a gap or an overlap between bands.
        """
        name, presets = similarity.name, similarity.presets
        spec = similarity.default_preset if spec is None else spec
        if spec is None:
            raise UserError(f"{name} has no preset; give {{low: [from, to], …}}", KEY)
        if isinstance(spec, str):
            if spec not in presets:
                known = ", ".join(presets) or "none"
                raise UserError(
                    f"{name} has no preset {spec!r} (known: {known}); name one or give {{low: [from, to], …}}", KEY
                )
            spec = presets[spec]
        if not spec:
            raise UserError("is empty; give at least one band", KEY)
        intervals = {name: _interval(name, edges) for name, edges in spec.items()}
        larger_is_closer = similarity.larger_is_closer
        loosest_first = sorted(intervals, key=lambda name: _closeness_interval(intervals[name], larger_is_closer))
        ordered = {name: intervals[name] for name in loosest_first}
        _require_adjoining(ordered, larger_is_closer)
        return cls(ordered, larger_is_closer)

    @property
    def names(self) -> list[str]:
        """Band names, loosest first."""
        return list(self.bands)

    def resolve(self) -> dict[str, dict[str, list[Edge]]]:
        """`{"bands": {name: [from, to]}, "cumulative": {name: [from, to]}}`, None for an open end, as in `metrics.json`.

        The cumulative band is the union of a band and all stricter ones.
        """
        strictest = self.bands[self.names[-1]]
        cumulative = {
            name: [edges[0], strictest[1]] if self.larger_is_closer else [strictest[0], edges[1]]
            for name, edges in self.bands.items()
        }
        return {"bands": {name: list(edges) for name, edges in self.bands.items()}, "cumulative": cumulative}

    def within(self, name: str) -> list[str]:
        """The bands that form the cumulative band `name`: itself and all stricter ones."""
        return self.names[self.names.index(name) :]

    def levels(self, cut: float | None = None) -> Levels:
        """The bands, and the calibrated cut if given, as levels that do not overlap."""
        intervals = {name: _closeness_interval(edges, self.larger_is_closer) for name, edges in self.bands.items()}
        starts = {start: [name] for name, (start, _) in intervals.items()}
        top = np.nextafter(intervals[self.names[-1]][1], np.float32(np.inf))
        starts.setdefault(top, [])
        sign = 1.0 if self.larger_is_closer else -1.0
        calibrated = None if cut is None else np.float32(sign * cut)
        if calibrated is not None and calibrated not in starts:
            below = [start for start in starts if start < calibrated]
            starts[calibrated] = list(starts[max(below)]) if below else []
        edges = sorted(starts)
        labels = tuple(
            tuple(starts[edge]) + ((CALIBRATED,) if calibrated is not None and edge >= calibrated else ())
            for edge in edges
        )
        return Levels(np.array(edges, np.float32), labels, self.larger_is_closer)


def _interval(name: str, edges: Sequence[Edge]) -> tuple[Edge, Edge]:
    if name == CALIBRATED:
        raise UserError(f"the name {CALIBRATED!r} is reserved for the calibrated cut; choose another", KEY)
    low, high = edges
    if low is None and high is None:
        raise UserError("both ends are open; close at least one", f"{KEY}.{name}")
    if low is not None and high is not None and not low < high:
        raise UserError(f"[{low}, {high}] holds nothing; write [from, to] with from < to", f"{KEY}.{name}")
    return low, high


def _closeness_interval(edges: tuple[Edge, Edge], larger_is_closer: bool) -> tuple[np.float32, np.float32]:
    low = np.float32(-np.inf if edges[0] is None else edges[0])
    high = np.float32(np.inf if edges[1] is None else edges[1])
    return (low, high) if larger_is_closer else (-high, -low)


def _require_adjoining(ordered: dict[str, tuple[Edge, Edge]], larger_is_closer: bool) -> None:
    names = list(ordered)
    for looser, stricter in itertools.pairwise(names):
        end = _closeness_interval(ordered[looser], larger_is_closer)[1]
        start = _closeness_interval(ordered[stricter], larger_is_closer)[0]
        if end != start:
            fault = "overlap" if end > start else "leave a gap"
            raise UserError(
                f"{looser} {list(ordered[looser])} and {stricter} {list(ordered[stricter])} {fault}; "
                "let each band start where the one before it ends",
                KEY,
            )


def bands_of(config: Config) -> Bands:
    """The bands that the config asks for."""
    return Bands.make(config.score.bands, SIMILARITIES[config.score.similarity])
