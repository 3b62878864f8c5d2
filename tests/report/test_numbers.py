"""Every number on the page, in the terminal and in the CSV files is one of metrics.json, or of the run's scores."""

import copy
import csv
import io
import random
from typing import Any

import numpy as np
import pytest

import side_ray
from side_ray.report.figures import build_figures
from side_ray.report.page import render
from side_ray.report.table import metrics_csv, terminal_table
from tests.report.walk import Page, Walk, expect, got

FIXED = {
    "number",
    "schema",
    "similarity",
    "lambda",
    "curve",
    "config",
    "sizes",
    "kept",
    "accuracy",
    "share",
    "at",
    "artifacts",
    "fdr",
}
"""What `scrambled` leaves as it is: names, settings, and values that order others."""


@pytest.fixture(scope="module")
def run(local_audit):
    return side_ray.open_run(local_audit.run.store.uri)


@pytest.fixture(scope="module")
def scored(run) -> dict[tuple[str, float], dict[str, Any]]:
    found = {}
    for each in run.metrics["conditions"]:
        table = run.matches(each["method"], each["lambda"], within_cut=False).sort_values("sample_id")
        values = {"best": table["value"], "best_id": table["train_id"], "holdout_best": table["holdout_value"]}
        found[each["method"], each["lambda"]] = {name: column.to_numpy() for name, column in values.items()}
    return found


@pytest.fixture(scope="module")
def labels(run) -> dict[int, int]:
    table = run.matches("random", within_cut=False)
    guided = run.matches("td", 2.0, within_cut=False)
    return {row.train_id: int(row.label) for each in (table, guided) for row in each.itertuples()}


def scrambled(metrics: dict[str, Any], seed: int) -> dict[str, Any]:
    """The metrics with another value in the place of every number, all different, so that no number is right by chance."""
    rng = random.Random(seed)

    def change(value: Any, key: str) -> Any:
        if key in FIXED or isinstance(value, bool):
            return value
        if isinstance(value, dict):
            return {name: change(inner, key if name.isdigit() else name) for name, inner in value.items()}
        if isinstance(value, list):
            found = [change(inner, key) for inner in value]
            return sorted(found) if key.endswith("ci") and None not in found else found
        if isinstance(value, int):
            return rng.randrange(11, 90_000)
        if isinstance(value, float):
            return rng.uniform(1.1, 900) if "lift" in key else rng.uniform(0.0002, 0.98)
        return value

    found = change(copy.deepcopy(metrics), "")
    size = rng.randrange(11, 90_000)
    found["false_match_rate"] = 1 / rng.randrange(200, 2000)
    found["verdict"]["distinct_ci"] = sorted(float(rng.randrange(11, 90_000)) for _ in range(2))
    for row in found["conditions"]:
        row["n"] = size
        shares = [sorted(rng.uniform(0.001, 0.9) for _ in range(3)) for _ in range(2)]
        row["equal_rates"] = [
            {"rate": rate, "matches": matches, "ci": [low, high]}
            for rate, (low, matches, high) in zip((0.002, 0.0173), shares, strict=True)
        ]
        for name in ("reach", "richness"):
            low, value, high = sorted(rng.uniform(10, found["train_distinct"]) for _ in range(3))
            if row[name]["chao2"]:
                row[name]["chao2"] |= {"value": value, "ci": [low, high]}
    return found


def page_of(metrics: dict[str, Any]) -> Page:
    return Page(render(metrics, {}, figures=build_figures(metrics)))


def test_a_finished_run(run, local_audit, scored, labels):
    walk = Walk(run.metrics, scored, labels)
    within = sum(each["calibrated"]["ams_count"] for each in run.metrics["conditions"])
    walk.m |= {"within": within, "pairs": min(within + 24, sum(each["n"] for each in run.metrics["conditions"]))}
    assert walk.page(Page(local_audit.run.store.read("report.html").decode())) > 400


@pytest.fixture(scope="module")
def other(run) -> tuple[dict[str, Any], Page]:
    metrics = scrambled(run.metrics, 0)
    return metrics, page_of(metrics)


@pytest.mark.long
def test_whatever_the_numbers_are(other):
    metrics, page = other
    assert Walk(metrics).page(page) > 400


SHOWN = (
    "verdict distinct",
    "verdict copied",
    "conditions calibrated ams",
    "conditions calibrated ams_ci",
    "conditions calibrated holdout_count",
    "conditions calibrated lift",
    "conditions cumulative mid ums",
    "conditions bands low ums_best_count",
    "conditions top_mean 1",
    "conditions percentile_95",
    "conditions mcnemar p_value",
    "second_opinions nl2 conditions ratio count",
    "second_opinions nl2 conditions ratio against_unseen count",
    "second_opinions nl2 conditions authenticity ci",
    "second_opinions nl2 unseen copying cells",
    "conditions excess",
    "conditions excess_ci",
    "conditions discoveries 0.05 distinct",
    "conditions equal_rates matches",
    "conditions crossfit unseen",
    "conditions reach coverage",
    "privacy epsilon",
    "privacy guessers right",
    "privacy attacks loss auc",
    "ledger rows q_value",
    "ledger revealed",
    "ledger overlap images",
    "ledger classes revealed",
    "ledger clusters copied",
    "cut",
    "false_match_rate",
    "train_size",
    "provenance machine cpus",
)


def changed(value: Any, path: list[str]) -> Any:
    """The last number at a path, made larger; lists on the way are entered at their end."""
    if isinstance(value, list):
        return [*value[:-1], changed(value[-1], path)]
    if path:
        return value | {path[0]: changed(value[path[0]], path[1:])}
    return value + 7 if isinstance(value, int) else value * 1.3


def test_a_wrong_number_is_noticed(other):
    """A page made from metrics of which one number is wrong."""
    metrics, page = other
    for path in SHOWN:
        with pytest.raises(AssertionError):
            Walk(changed(metrics, path.split())).page(page)


def test_metrics_csv_holds_the_same_numbers_unrounded(run):
    metrics, conditions = run.metrics, {(each["method"], each["lambda"]): each for each in run.metrics["conditions"]}
    whole = {"n": "n", "percentile_95": "percentile_95", "diffmemorize": "diffmemorize/share", "excess": "excess"}
    whole |= {"chao2": "richness/chao2/value", "coverage": "richness/coverage"}
    whole |= {"excess_low excess_high": "excess_ci", "excess_over_random": "excess_over_random/difference"}
    whole |= {"excess_over_random_low excess_over_random_high": "excess_over_random/ci"}
    whole |= {"excess_over_random_p": "excess_over_random/p_value"}
    whole |= {"equal_cost_samples": "equal_cost/samples", "equal_cost_distinct": "equal_cost/distinct"}
    whole |= {f"distinct_at_fdr_{level}": f"discoveries/{level}/distinct" for level in ("0.01", "0.05")}
    whole |= {f"top_mean_{share}": f"top_mean/{share}" for share in conditions["random", 0.0]["top_mean"]}
    banded = {name: name for name in ("ams", "ums", "ums_best", "holdout_ams", "holdout_count", "lift")}
    banded |= {f"{name}_count": f"{name}_count" for name in ("ams", "ums", "ums_best")}
    banded |= {f"{name}_low {name}_high": f"{name}_ci" for name in ("ams", "ums", "ums_best", "holdout", "lift")}
    opinions = metrics["second_opinions"]["nl2"]
    references = {
        "authenticity_unseen": "authenticity/share",
        "ratio_unseen": "ratio/share",
        "copying_unseen": "copying/z",
    }
    of_opinions = {"authenticity": "authenticity/share", "authenticity_low authenticity_high": "authenticity/ci"}
    of_opinions |= {"ratio": "ratio/share", "ratio_low ratio_high": "ratio/ci", "copying": "copying/z"}
    of_opinions |= {"ratio_against_unseen": "ratio/against_unseen/share"}
    names = {"method", "lambda", "train_size", "kind", "band", "from", "to"}
    known = {
        column for columns in (whole, banded, of_opinions, references) for key in columns for column in key.split()
    } | names
    rows = list(csv.DictReader(io.StringIO(metrics_csv(metrics))))
    assert len(rows) == 7 * len(conditions)
    assert set(rows[0]) <= known
    for row in rows:
        condition = conditions[row["method"], float(row["lambda"])]
        band = condition["calibrated"] if row["kind"] == "calibrated" else condition[row["kind"]][row["band"]]
        own = next(each for each in opinions["conditions"] if each["lambda"] == float(row["lambda"]))
        places = (whole, condition), (banded, band), (of_opinions, own), (references, opinions["unseen"])
        for columns, of in places:
            for key, place in columns.items():
                values = [float(row[column]) for column in key.split() if row.get(column)]
                assert values == [value for value in got(of, place) if value is not None], (key, row)
        assert int(row["train_size"]) == metrics["train_size"]


def test_extracted_images_have_the_values_of_the_scores(run, scored):
    q_values = {each["train_id"]: each["q_value"] for each in run.metrics["ledger"]["rows"]}
    rows = run.extracted.to_dict("records")
    assert len(rows) > 30
    for row in rows:
        found, number = scored[row["method"], row["lambda"]], row["train_id"]
        assert (found["best_id"][row["sample_id"]], found["best"][row["sample_id"]]) == (number, row["best"])
        every = np.concatenate([each["best"][each["best_id"] == number] for each in scored.values()])
        assert row["best"] == every.min()
        assert row["copies"] == (every <= run.metrics["cut"]).sum()
        assert row["q_value"] == q_values.get(number, row["q_value"])


def test_the_terminal_table(run):
    metrics = scrambled(run.metrics, 7)
    table = terminal_table(metrics)
    columns = {"λ": "lambda", "N_G": "n", "mean of\ntop 0.1%": "top_mean/0.1", "held-out\nmatches": "holdout"}
    columns |= {"AMS": "ams", "UMS": "ums", "UMS by\nbest match": "ums_best"}
    for column in table.columns:
        place = columns.get(str(column.header), "")
        if place in ("ams", "ums", "ums_best", "holdout"):
            share = f"calibrated/{place}_ams" if place == "holdout" else f"calibrated/{place}"
            place = f"{share} calibrated/{place}_count calibrated/{place}_ci"
        for row, cell in zip(metrics["conditions"], column.cells, strict=True):
            if place:
                expect(str(cell), got(row, place), str(column.header))
    assert str(metrics["train_size"]) in str(table.title).replace(",", "")
