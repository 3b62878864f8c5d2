import csv
import io

import pytest
from rich.console import Console

from side_ray.report.table import metrics_csv, terminal_table


def printed(metrics, width=80):
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(terminal_table(metrics))
    return console.export_text()


def rows(metrics):
    return list(csv.DictReader(io.StringIO(metrics_csv(metrics))))


def test_terminal_table_fits_eighty_columns_uncut(metrics):
    text = printed(metrics)
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    for words in (
        "nL2 ≤ 0.602",
        "300 training images",
        "Random",
        "OL-TI",
        "14.7% 294",
        "13.2–16.3%",
        "7.10% 142",
        "0.15% 3",
        "0.225",
    ):
        assert words in text


def test_terminal_table_marks_few_matches(metrics):
    assert "0.20% 4†" in printed(metrics)
    assert "fewer than 5 matches: interval is wide" in printed(metrics)
    metrics["conditions"].pop()
    assert "†" not in printed(metrics)


def test_terminal_table_without_holdout_or_best_match(metrics, without):
    text = printed(without(metrics, "holdout_ams", "holdout_count", "holdout_ci", "ums_best", "ums_best_count"))
    assert "held-out" not in text
    assert "best match" not in text
    assert "UMS" in text


def test_terminal_table_without_a_cut_takes_the_strictest_band(metrics, without):
    text = printed({**without(metrics, "calibrated"), "cut": None})
    assert "Cumulative, high (≤ 1.35), nL2" in text
    assert "95.5% 1,910" in text


def test_terminal_table_prints_markup_as_text(metrics):
    metrics["conditions"][0]["method"] = "[red]x[/red]"
    assert "[red]x[/red]" in printed(metrics, width=120)


def test_terminal_table_of_nothing(metrics):
    assert "Nothing scored" in printed({**metrics, "conditions": []})


def test_csv_has_a_row_for_each_condition_kind_and_band(metrics):
    keys = [(row["method"], float(row["lambda"]), row["kind"], row["band"]) for row in rows(metrics)]
    wanted = {
        (each["method"], each["lambda"], kind, band)
        for each in metrics["conditions"]
        for kind, band in [("calibrated", "calibrated")]
        + [(kind, band) for kind in ("cumulative", "bands") for band in ("low", "mid", "high")]
    }
    assert len(keys) == 49
    assert set(keys) == wanted


def test_csv_values_are_those_of_the_metrics(metrics):
    conditions = {(each["method"], each["lambda"]): each for each in metrics["conditions"]}
    for row in rows(metrics):
        condition = conditions[row["method"], float(row["lambda"])]
        band = condition["calibrated"] if row["kind"] == "calibrated" else condition[row["kind"]][row["band"]]
        for name in (
            "ams",
            "ams_count",
            "ums",
            "ums_count",
            "ums_best",
            "ums_best_count",
            "holdout_ams",
            "holdout_count",
        ):
            assert float(row[name]) == band[name]
        for stem in ("ams", "ums", "ums_best", "holdout"):
            assert [float(row[f"{stem}_low"]), float(row[f"{stem}_high"])] == band[f"{stem}_ci"]
        assert row["lift"] == ("" if band["lift"] is None else str(band["lift"]))
        assert int(row["n"]) == condition["n"]
        assert int(row["train_size"]) == 300
        assert float(row["top_mean_0.1"]) == condition["top_mean"]["0.1"]
        assert float(row["percentile_95"]) == condition["percentile_95"]
        assert float(row["diffmemorize"]) == condition["diffmemorize"]["share"]
        assert float(row["chao2"]) == condition["richness"]["chao2"]["value"]
        assert float(row["coverage"]) == condition["richness"]["coverage"]


def test_csv_names_the_edges_of_each_band(metrics):
    edges = {(row["kind"], row["band"]): (row["from"], row["to"]) for row in rows(metrics)}
    assert edges["bands", "low"] == ("1.4", "1.5")
    assert edges["cumulative", "high"] == ("", "1.35")
    assert edges["calibrated", "calibrated"] == ("", "0.6021")
    cosine = {**metrics, "cut": 0.71, "similarity": {**metrics["similarity"], "name": "sscd"}}
    assert (rows(cosine)[0]["from"], rows(cosine)[0]["to"]) == ("0.71", "")


@pytest.mark.parametrize(
    "absent",
    [("holdout_ams", "holdout_count", "holdout_ci", "lift", "lift_ci"), ("ums_best", "ums_best_count", "ums_best_ci")],
)
def test_csv_leaves_out_columns_without_a_number(metrics, without, absent):
    stems = {name.split("_")[0] if name.startswith("holdout") else name for name in absent}
    header = rows(without(metrics, *absent))[0].keys()
    assert not any(name.startswith(tuple(stems)) for name in header)
    assert "ams" in header


def test_csv_of_samples_without_a_guidance_scale(metrics):
    metrics["conditions"] = [{**metrics["conditions"][0], "method": "given", "lambda": None}]
    assert {(row["method"], row["lambda"]) for row in rows(metrics)} == {("given", "")}


def test_csv_of_nothing_is_a_header(metrics):
    assert metrics_csv({**metrics, "conditions": []}).startswith("method,lambda,n,kind,band")
