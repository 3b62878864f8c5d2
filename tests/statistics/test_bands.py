"""Bands: which band a value lies in, and the edges that two bands share."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from side_ray.errors import UserError
from side_ray.similarity.nl2 import Nl2
from side_ray.similarity.sscd import Sscd
from side_ray.statistics.bands import CALIBRATED, Bands


def band_of(bands: Bands, value: float) -> str | None:
    levels = bands.levels()
    level = int(levels.assign(np.float32(value)))
    return (levels.labels[level] or (None,))[0] if level >= 0 else None


def test_default_nl2_bands_are_the_cumulative_cuts() -> None:
    resolved = Bands.make(None, Nl2).resolve()
    assert resolved["cumulative"] == {"low": [None, 1.5], "mid": [None, 1.4], "high": [None, 1.35]}
    assert resolved["bands"] == {"low": [1.4, 1.5], "mid": [1.35, 1.4], "high": [None, 1.35]}


def test_paper_bands_are_the_printed_ones() -> None:
    resolved = Bands.make("paper", Nl2).resolve()
    assert resolved["bands"] == {"low": [1.5, 10.0], "mid": [1.4, 1.5], "high": [1.35, 1.4]}
    assert resolved["cumulative"] == {"low": [1.35, 10.0], "mid": [1.35, 1.5], "high": [1.35, 1.4]}


def test_sscd_bands() -> None:
    resolved = Bands.make(None, Sscd).resolve()
    assert resolved["bands"] == {"low": [0.4, 0.5], "mid": [0.5, 0.6], "high": [0.6, 1.0]}
    assert resolved["cumulative"] == {"low": [0.4, 1.0], "mid": [0.5, 1.0], "high": [0.6, 1.0]}


@pytest.mark.parametrize(
    ("value", "band"),
    [
        (0.0, "high"),
        (1.35, "high"),
        (1.36, "mid"),
        (1.4, "mid"),
        (1.5, "low"),
        (1.51, None),
        (np.nan, None),
        (np.inf, None),
    ],
)
def test_a_shared_edge_belongs_to_the_stricter_band_of_nl2(value: float, band: str | None) -> None:
    assert band_of(Bands.make("cumulative", Nl2), value) == band


@pytest.mark.parametrize(
    ("value", "band"), [(1.2, None), (1.35, "high"), (1.4, "high"), (1.5, "mid"), (10.0, "low"), (11, None)]
)
def test_paper_bands_leave_out_what_is_closer_than_the_last(value: float, band: str | None) -> None:
    assert band_of(Bands.make("paper", Nl2), value) == band


@pytest.mark.parametrize(
    ("value", "band"),
    [(0.39, None), (0.4, "low"), (0.5, "mid"), (0.6, "high"), (1.0, "high"), (-1, None), (np.nan, None)],
)
def test_a_shared_edge_belongs_to_the_stricter_band_of_sscd(value: float, band: str | None) -> None:
    assert band_of(Bands.make(None, Sscd), value) == band


def test_edges_are_float32_like_the_stored_values() -> None:
    # float32(1.35) is above 1.35: in float64 the value that reads as 1.35 would be outside.
    assert np.float64(np.float32(1.35)) > 1.35
    assert band_of(Bands.make("cumulative", Nl2), float(np.float32(1.35))) == "high"
    assert band_of(Bands.make("cumulative", Nl2), float(np.nextafter(np.float32(1.35), np.float32(2)))) == "mid"


edges = st.lists(st.floats(0.015625, 4, width=32), min_size=3, max_size=6, unique=True).map(sorted)


@settings(max_examples=30)
@given(
    edges,
    st.lists(st.floats(0, 5, width=32), min_size=1, max_size=40),
    st.booleans(),
    st.floats(0, 5, width=32),
    st.data(),
)
def test_bands_partition_what_they_cover(
    cuts: list[float], values: list[float], larger: bool, cut: float, data: st.DataObject
) -> None:
    names = data.draw(st.permutations([f"band{i}" for i in range(len(cuts) - 1)]))
    spec = {name: [low, high] for name, low, high in zip(names, cuts, cuts[1:], strict=False)}
    shuffled = dict(data.draw(st.permutations(list(spec.items()))))
    bands = Bands.make(shuffled, Sscd if larger else Nl2)
    levels = bands.levels(cut)
    found = levels.assign(np.array(values + cuts + [cut], np.float32))
    for value, level in zip(values + cuts + [cut], found, strict=True):
        labels = levels.labels[level] if level >= 0 else ()
        inside = [name for name, (low, high) in spec.items() if low <= value <= high]
        chosen = [label for label in labels if label != CALIBRATED]
        assert len(chosen) == (1 if inside else 0)
        if inside:
            closest = max if larger else min
            assert chosen[0] == closest(inside, key=lambda name: spec[name])
        assert (CALIBRATED in labels) == (value >= cut if larger else value <= cut)
        for name, (low, high) in bands.resolve()["cumulative"].items():
            within = bool(chosen) and chosen[0] in bands.within(name)
            looser_edge = low if larger else high
            assert within == (low <= value <= high) or value == looser_edge


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nope", "no preset"),
        ("sscd", "no preset"),
        ({}, "empty"),
        ({"low": [1.4, 1.5], "high": [None, 1.3]}, "gap"),
        ({"low": [1.4, 1.5], "high": [None, 1.45]}, "overlap"),
        ({"low": [1.5, 1.4]}, "holds nothing"),
        ({"low": [None, None]}, "both ends"),
        ({CALIBRATED: [None, 1.4]}, "reserved"),
    ],
)
def test_bad_bands_are_named_in_one_line(spec: object, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        Bands.make(spec, Nl2)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert "score.bands" in str(caught.value)


def test_a_similarity_without_preset_wants_bands() -> None:
    with pytest.raises(UserError, match="no preset"):
        Bands.make(None, type("Own", (Nl2,), {"default_preset": None}))


def test_reaches_beyond() -> None:
    assert not Bands.make("cumulative", Nl2).levels(1.2).reaches_beyond(2.0)
    assert Bands.make("cumulative", Nl2).levels(2.0).reaches_beyond(2.0)
    assert Bands.make("paper", Nl2).levels().reaches_beyond(2.0)
    assert Bands.make({"a": [1.0, None]}, Nl2).levels().reaches_beyond(2.0)
