"""The report of computed scores, for samples among which copies were planted."""

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

from side_ray.report.figures import build_figures
from side_ray.report.page import render
from side_ray.report.table import metrics_csv, terminal_table
from side_ray.search import Index, merge
from side_ray.similarity.nl2 import Nl2
from side_ray.statistics.bands import Bands
from side_ray.statistics.cut import calibrated_cut
from side_ray.statistics.hits import band_hits, count_neighbors
from side_ray.statistics.scores import ConditionScores, compare, condition_metrics

N, SIZE, COPIES = 400, 200, {0.0: 20, 5.0: 90}


@pytest.fixture(scope="module")
def scored():
    rng = np.random.default_rng(0)
    digits = np.round(load_digits().images * 255 / 16).astype(np.uint8)[..., None]
    member, held, unseen = digits[:SIZE], digits[SIZE : 2 * SIZE], digits[2 * SIZE : 2 * SIZE + N]
    similarity = Nl2()
    bands = Bands.make(None, similarity)
    indices = [Index(similarity.embed(part), np.arange(SIZE), similarity.metric, threads=1) for part in (member, held)]

    def nearest(images, index):
        merged = merge([index.search(similarity.embed(images), 50)[0]], 50, similarity.metric)
        return merged, similarity.values(merged)

    cut = calibrated_cut(nearest(unseen, indices[1])[1][:, 0], 0.01, larger_is_closer=False)
    levels = bands.levels(cut.value)
    found = {}
    for scale, copies in COPIES.items():
        samples = unseen.copy()
        noise = rng.integers(0, 4, (copies, 8, 8, 1), dtype=np.uint8)
        samples[:copies] = np.minimum(member[rng.integers(0, SIZE, copies)], 250) + noise
        merged, values = nearest(samples, indices[0])
        hits = band_hits(count_neighbors(merged, values, levels), levels, np.arange(N))
        found[scale] = ConditionScores(
            values[:, 0], merged.ids[:, 0], hits, nearest(samples, indices[1])[1][:, 0], values[:, 1]
        )
    conditions = []
    for scale, scores in found.items():
        row = {"method": "td" if scale else "random", "lambda": scale}
        row |= condition_metrics(scores, bands, cut, train_size=SIZE)
        if scale:
            test = compare(scores, np.arange(N), found[0.0], np.arange(N), cut, False)
            row["mcnemar"] = {"p_value": test.p_value, "only_this": test.only_a, "only_random": test.only_b}
        conditions.append(row)
    metrics = {
        "schema": 1,
        "similarity": {"name": "nl2", **similarity.params(), "bands": bands.resolve()},
        "train_size": SIZE,
        "cut": cut.value,
        "cut_n": cut.n,
        "cut_known": cut.known,
        "false_match_rate": cut.false_match_rate,
        "false_match_rate_ci": list(cut.rate_ci),
        "conditions": conditions,
    }
    values = [
        {"method": row["method"], "lambda": row["lambda"], "best": scores.best, "holdout_best": scores.holdout_best}
        for row, scores in zip(conditions, found.values(), strict=True)
    ]
    return json.loads(json.dumps(metrics, allow_nan=False)), values


@pytest.mark.long
def test_planted_copies_arrive_on_the_page(scored, outline):
    metrics, values = scored
    random, guided = (condition["calibrated"] for condition in metrics["conditions"])
    assert 20 <= random["ams_count"] < 40
    assert 90 <= guided["ams_count"] < 110
    figures = build_figures(metrics, values=values)
    page = outline(render(metrics, {}, figures=figures))
    assert page.faults == []
    assert f"{guided['ams_count']} of 400 samples" in page.text("span")
    for words in ("Chao2", "Sample coverage", "McNemar against Random", "Lift", "Held-out false matches"):
        assert words in page.text("th")
    assert {"rarefaction", "best-td-5", "lambda-calibrated-ums"} <= {figure.name for figure in figures}


def test_table_and_csv_take_them_too(scored):
    metrics, _ = scored
    assert terminal_table(metrics).row_count == 2
    header = metrics_csv(metrics).splitlines()[0].split(",")
    assert {"ums_best_low", "lift_high", "holdout_high", "chao2", "coverage", "diffmemorize", "top_mean_0.1"} <= set(
        header
    )
