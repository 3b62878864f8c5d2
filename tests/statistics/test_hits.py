"""Hits: Eq. 15's union, kept sparse, does not depend on how the samples or the training set were cut."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from side_ray.search import Counts, Levels, Neighbors
from side_ray.similarity.nl2 import Nl2
from side_ray.similarity.sscd import Sscd
from side_ray.statistics.bands import CALIBRATED, Bands
from side_ray.statistics.hits import (
    Hits,
    band_hits,
    count_neighbors,
    hits_from_columns,
    hits_to_columns,
    merge_hits,
    union,
)

BANDS = Bands.make({"low": [0.4, 0.5], "mid": [0.5, 0.6], "high": [0.6, 1.0]}, Sscd)
LEVELS = BANDS.levels(0.55)


def as_dict(hits: Hits) -> dict[str, dict[int, tuple[int, int]]]:
    return {
        name: {int(t): (int(c), int(s)) for t, c, s in zip(band.train_ids, band.counts, band.sample_ids, strict=True)}
        for name, band in hits.items()
    }


def brute(
    values: np.ndarray, sample_ids: np.ndarray, low: float, high: float, closed: bool
) -> dict[int, tuple[int, int]]:
    inside = (values >= np.float32(low)) & ((values <= np.float32(high)) if closed else (values < np.float32(high)))
    return {
        int(column): (int(inside[:, column].sum()), int(sample_ids[inside[:, column]].min()))
        for column in np.flatnonzero(inside.any(axis=0))
    }


def counted(values: np.ndarray, levels: Levels) -> Counts:
    level = levels.assign(values)
    rows, columns = np.nonzero(level >= 0)
    return Counts.of_pairs(level[rows, columns], columns, rows)


values_of_pairs = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).choice(np.linspace(0.3, 1, 29, dtype=np.float32), (30, 12))
)


@given(values_of_pairs, st.data())
def test_hits_are_those_of_brute_force_however_the_samples_are_cut(values: np.ndarray, data: st.DataObject) -> None:
    order = np.array(data.draw(st.permutations(range(30))))
    cuts = sorted(data.draw(st.lists(st.integers(0, 30), max_size=4)))
    ids = np.arange(100, 130)
    blocks = [np.sort(rows) for rows in np.split(order, cuts)]
    found = as_dict(merge_hits(band_hits(counted(values[rows], LEVELS), LEVELS, ids[rows]) for rows in blocks))
    assert found["low"] == brute(values, ids, 0.4, 0.5, False)
    assert found["mid"] == brute(values, ids, 0.5, 0.6, False)
    assert found["high"] == brute(values, ids, 0.6, 1.0, True)
    assert found[CALIBRATED] == brute(values, ids, 0.55, 1.0, True)


@given(values_of_pairs)
def test_cumulative_hits_are_unions(values: np.ndarray) -> None:
    hits = band_hits(counted(values, LEVELS), LEVELS, np.arange(30))
    both = union(hits, BANDS.within("mid"))
    assert as_dict({"": both})[""] == brute(values, np.arange(30), 0.5, 1.0, True)
    assert both.train_ids.size <= hits["mid"].train_ids.size + hits["high"].train_ids.size


def test_columns_come_back() -> None:
    values = np.random.default_rng(0).random((20, 9)).astype(np.float32)
    hits = band_hits(counted(values, LEVELS), LEVELS, np.arange(20))
    columns = hits_to_columns(hits)
    assert set(columns) == {"band", "train_id", "count", "sample_id"}
    again = hits_from_columns(columns["band"], columns["train_id"], columns["count"], columns["sample_id"])
    assert as_dict(again) == {name: band for name, band in as_dict(hits).items() if band}


def test_nothing_hit() -> None:
    hits = band_hits(counted(np.zeros((3, 4), np.float32), LEVELS), LEVELS, np.arange(3))
    assert {name: band.train_ids.size for name, band in hits.items()} == {"low": 0, "mid": 0, "high": 0, CALIBRATED: 0}
    assert hits_to_columns({})["band"].size == 0
    assert union({}, ["low"]).train_ids.size == 0
    assert merge_hits([]) == {}


def test_neighbours_alone_give_the_hits_of_nl2() -> None:
    rng = np.random.default_rng(1)
    levels = Bands.make(None, Nl2).levels(1.2)
    values = np.sort(rng.uniform(0.5, 3, (25, 50)), axis=1).astype(np.float32)
    ids = np.argsort(rng.random((25, 80)), axis=1)[:, :50]
    hits = as_dict(
        band_hits(count_neighbors(Neighbors(ids, values.astype(float)), values, levels), levels, np.arange(25))
    )
    for train_id, (count, sample) in hits["mid"].items():
        inside = ((values > np.float32(1.35)) & (values <= np.float32(1.4)) & (ids == train_id)).any(axis=1)
        assert (count, sample) == (inside.sum(), inside.argmax())
    assert len(hits[CALIBRATED]) == len(np.unique(ids[values <= np.float32(1.2)]))
