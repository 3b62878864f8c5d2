"""Which training images the samples hit, and how often: Eq. 15's union in sparse form."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from side_ray.search import Counts, Levels, Neighbors
from side_ray.statistics.bands import CALIBRATED


@dataclass(frozen=True)
class BandHits:
    """Training images that at least one sample hit in a band."""

    train_ids: np.ndarray
    """int64 [S], ascending, distinct."""
    counts: np.ndarray
    """int64 [S], number of samples that hit each, ≥ 1."""
    sample_ids: np.ndarray
    """int64 [S], the first sample that hit each. For images hit once it shows which were hit by the same sample."""


Hits = dict[str, BandHits]
"""By band name. A band without hits is present, with empty arrays."""


def band_hits(counts: Counts, levels: Levels, sample_ids: np.ndarray) -> Hits:
    """The hits of a block of samples, by band name (and `calibrated`, if the levels include a cut).

    Args:
        counts: counts of the search at each of `levels`; `first` are rows of the block.
        sample_ids: int64 [Q], sample ids of the block's rows.
    """
    names = dict.fromkeys(name for names in levels.labels for name in names)
    return {
        name: _grouped(counts.train_ids[chosen], counts.counts[chosen], sample_ids[counts.first[chosen]])
        for name in sorted(names, key=lambda name: name == CALIBRATED)
        for chosen in [levels.named(name)[counts.levels]]
    }


def count_neighbors(neighbors: Neighbors, values: np.ndarray, levels: Levels) -> Counts:
    """Hits among the stored neighbours; complete if no level reaches beyond the k-th of them.

    For nL2 this holds below 1/α = 2: every training image with a smaller value is among the n nearest.

    Args:
        neighbors: ids int64 [Q, k].
        values: float32 [Q, k], their similarity values.
    """
    level = levels.assign(values)
    rows, columns = np.nonzero(level >= 0)
    return Counts.of_pairs(level[rows, columns], neighbors.ids[rows, columns], rows)


def merge_hits(parts: Iterable[Hits]) -> Hits:
    """The combined hits of several blocks of samples; the order of the parts does not matter."""
    collected: dict[str, list[BandHits]] = {}
    for part in parts:
        for name, hits in part.items():
            collected.setdefault(name, []).append(hits)
    return {
        name: _grouped(
            np.concatenate([part.train_ids for part in band]),
            np.concatenate([part.counts for part in band]),
            np.concatenate([part.sample_ids for part in band]),
        )
        for name, band in collected.items()
    }


def union(hits: Hits, names: Iterable[str]) -> BandHits:
    """The hits of several disjoint bands as those of one band."""
    chosen = [hits[name] for name in names if name in hits]
    return merge_hits({"": band} for band in chosen)[""] if chosen else _grouped(*[np.empty(0, np.int64)] * 3)


def hits_to_columns(hits: Hits) -> dict[str, np.ndarray]:
    """Columns of the parts in `hits`: band (str) · train_id · count · sample_id."""
    names = [np.full(band.train_ids.size, name, object) for name, band in hits.items()]
    return {
        "band": np.concatenate(names) if names else np.empty(0, object),
        "train_id": _joined([band.train_ids for band in hits.values()]),
        "count": _joined([band.counts for band in hits.values()]),
        "sample_id": _joined([band.sample_ids for band in hits.values()]),
    }


def hits_from_columns(band: np.ndarray, train_id: np.ndarray, count: np.ndarray, sample_id: np.ndarray) -> Hits:
    """The inverse of `hits_to_columns`, for one file or several files' columns concatenated."""
    names = np.asarray(band, object)
    return {
        str(name): _grouped(train_id[names == name], count[names == name], sample_id[names == name])
        for name in dict.fromkeys(names.tolist())
    }


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.empty(0, np.int64)


def _grouped(train_ids: np.ndarray, counts: np.ndarray, sample_ids: np.ndarray) -> BandHits:
    order = np.lexsort((sample_ids, train_ids))
    train_ids = train_ids[order]
    starts = np.flatnonzero(np.r_[True, train_ids[1:] != train_ids[:-1]]) if train_ids.size else np.empty(0, np.int64)
    totals = np.add.reduceat(counts[order], starts) if starts.size else np.empty(0, np.int64)
    return BandHits(train_ids[starts], totals.astype(np.int64), sample_ids[order][starts])
