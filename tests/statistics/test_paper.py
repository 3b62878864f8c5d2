"""The paper's tables, recomputed from its Table 4: which numbers are means, which maxima, and what "Top p %" means."""

from pathlib import Path

import numpy as np
import pytest

import side_ray
from side_ray.statistics.scores import top_mean

TABLE_4 = Path(side_ray.__file__).parent / "report" / "paper" / "data" / "table4.csv"
COLUMNS = ("lambda", "ams", "ums", "top_0.1", "top_0.5", "top_1", "top_5", "top_10")
TABLE_1 = {"random": (0.596, 0.328), "side": (1.115, 0.444)}
"""CelebA-HQ-FI, mid similarity: AMS and UMS in %."""
RANDOM_HIGH_AMS = 0.044
TABLE_3 = {"random": (0.604, 0.544, 0.518, 0.463), "side": (0.618, 0.567, 0.544, 0.485)}
"""CelebA-HQ-FI: Top 0.1, 0.5, 1 and 5 %."""


@pytest.fixture(scope="module")
def table4() -> dict[str, np.ndarray]:
    rows = np.loadtxt(TABLE_4, delimiter=",", comments="#", skiprows=3)
    assert rows.shape == (51, len(COLUMNS))
    return dict(zip(COLUMNS, rows.T, strict=True))


def tops(table: dict[str, np.ndarray]) -> np.ndarray:
    return np.stack([table[name] for name in ("top_0.1", "top_0.5", "top_1", "top_5")])


def test_table_1_is_the_mean_over_five_scales(table4: dict[str, np.ndarray]) -> None:
    side = (table4["lambda"] >= 5) & (table4["lambda"] <= 9)
    assert side.sum() == 5
    assert table4["ams"][side].mean() == pytest.approx(TABLE_1["side"][0], abs=0.0005)
    assert table4["ums"][side].mean() == pytest.approx(TABLE_1["side"][1], abs=0.0005)
    assert (table4["ams"][0], table4["ums"][0]) == TABLE_1["random"]


def test_table_3_is_the_maximum_over_the_same_scales(table4: dict[str, np.ndarray]) -> None:
    side = (table4["lambda"] >= 5) & (table4["lambda"] <= 9)
    assert tuple(tops(table4)[:, side].max(axis=1)) == TABLE_3["side"]
    assert tuple(tops(table4)[:, 0]) == TABLE_3["random"]


def test_the_best_scales_of_table_4(table4: dict[str, np.ndarray]) -> None:
    # Figure 4 names 13 as the best for the mid band.
    assert table4["lambda"][table4["ams"].argmax()] == 15
    assert table4["lambda"][table4["ums"].argmax()] == 9


def test_top_p_percent_is_no_percentile(table4: dict[str, np.ndarray]) -> None:
    # At λ = 0 only 0.64 % of the images reach 0.5, so the 99th percentile is below 0.5; "Top 1 %" is 0.518.
    assert table4["ams"][0] + RANDOM_HIGH_AMS < 1
    assert table4["top_1"][0] > 0.5


def test_top_p_percent_as_a_mean_agrees_with_ams(table4: dict[str, np.ndarray]) -> None:
    """Scores with the table's tail: its own means within a tail fix, between their bounds, the share that reaches 0.5."""
    # Of the best 1 %, the best half have mean 0.544 and the other half, from the two columns, 0.492: 0.5 lies between.
    rest = 2 * table4["top_1"][0] - table4["top_0.5"][0]
    assert rest < 0.5 < table4["top_0.5"][0]
    assert 0.5 <= table4["ams"][0] + RANDOM_HIGH_AMS <= 1


def test_top_mean_reproduces_a_row_of_table_4(table4: dict[str, np.ndarray]) -> None:
    n, shares = 50_000, ("0.1", "0.5", "1", "5", "10")
    wanted = [table4[f"top_{share}"][9] for share in shares]
    counts = [int(n * float(share) / 100) for share in shares]
    scores, taken, total = [], 0, 0.0
    for count, mean in zip(counts, wanted, strict=True):
        level = (mean * count - total) / (count - taken)
        scores += [level] * (count - taken)
        taken, total = count, mean * count
    best = np.array(scores + [0.2] * (n - taken), np.float32)
    np.random.default_rng(0).shuffle(best)
    for share, mean, count in zip(shares, wanted, counts, strict=True):
        assert top_mean(best, share, True) == (pytest.approx(mean, abs=1e-6), count)
