"""A finished run in Python: the examples of the package's docstrings run, and every number is the report's."""

import doctest
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

import side_ray
from side_ray.errors import UserError
from side_ray.images import decode_png
from side_ray.report import findings
from side_ray.runs.plan import Condition
from side_ray.runs.run import Artifact, Run
from side_ray.storage import open_store
from tests.local import without_ray


@pytest.fixture
def run(uri):
    return side_ray.open_run(uri)


def test_the_examples_in_the_docstrings_run(uri, tmp_path):
    with without_ray():
        result = doctest.testmod(side_ray, extraglobs={"uri": uri, "new_run": str(tmp_path / "new")})
    assert result.failed == 0
    assert result.attempted >= 9


def test_numbers_are_those_of_the_report(run, artifacts):
    assert run.metrics == artifacts.report.read_json("metrics.json")
    assert run.headline == findings.headline(run.metrics)
    assert run.config == artifacts.config.model_dump(mode="json")
    for condition in run.metrics["conditions"]:
        method, scale = condition["method"], condition["lambda"]
        matches = run.matches(method, scale)
        assert len(matches) == condition["calibrated"]["ams_count"] > 0
        assert matches["train_id"].nunique() == condition["calibrated"]["ums_best_count"]
        whole = run.matches(method, scale, within_cut=False)
        assert len(whole) == condition["n"]
        assert list(whole["copy"]) == sorted(whole["copy"], reverse=True)
        assert whole["value"].is_monotonic_increasing
        rows = run.table[(run.table["method"] == method) & (run.table["kind"] == "calibrated")]
        assert list(rows["ams_count"]) == [condition["calibrated"]["ams_count"]]


def test_a_pair_is_the_stored_images(run, artifacts):
    first = run.matches("td").iloc[0]
    pair = run.pair(f"td/2/{first.sample_id}")
    samples = artifacts.samples(Condition("td", 2.0))
    table = samples.read(first.sample_id // samples.rows, ["sample_id", "image"]).to_pylist()
    (stored,) = [row["image"]["bytes"] for row in table if row["sample_id"] == first.sample_id]
    assert np.array_equal(np.asarray(pair.sample), decode_png(stored)[:, :, 0])
    assert (pair.train_id, pair.value, pair.copy, pair.label) == (first.train_id, first.value, True, first.label)
    assert np.abs(np.asarray(pair.train).astype(int) - np.asarray(pair.sample)).max() < 30
    assert pair._repr_html_().count("<img") == 2


def test_every_extracted_image_names_its_closest_sample(run, artifacts):
    stored = pq.read_table(f"{run.uri}/{artifacts.report.key}/extracted.parquet")
    assert stored.column_names == [
        "train_id", "file", "label", "group_size", "copies", "best", "method", "lambda", "seed", "sample_id", "q_value",
    ]  # fmt: skip
    text = (artifacts.report.store.read(f"{artifacts.report.key}/extracted.csv")).decode()
    assert text.splitlines()[0] == ",".join(stored.column_names)
    assert len(text.splitlines()) == 1 + stored.num_rows
    every = [run.matches(method) for method in ("random", "td")]
    assert set(run.extracted["train_id"]) == {each for frame in every for each in frame["train_id"]}
    ledger = pq.read_table(f"{run.uri}/{artifacts.report.key}/ledger.parquet").to_pandas().set_index("train_id")
    assert list(run.extracted["q_value"]) == list(ledger.loc[run.extracted["train_id"], "q_value"])
    assert run.extracted["copies"].sum() == sum(len(frame) for frame in every)
    for row in run.extracted.to_dict("records"):
        frames = [frame[frame["train_id"] == row["train_id"]] for frame in every]
        assert row["best"] == min(frame["value"].min() for frame in frames if len(frame))
        pair = run.pair(row["train_id"])
        assert (pair.id, pair.value) == (f"{row['method']}/{row['lambda']:g}/{row['sample_id']}", row["best"])
    some = run.extracted.iloc[0]
    assert run.remake(some["method"], some["lambda"], int(some["sample_id"])).seed == some["seed"]


def test_figures_and_pages_can_be_shown_and_saved(run, tmp_path):
    assert {"best-td-2", "rarefaction", "lambda-calibrated-ams"} <= set(run.figures)
    drawing = run.figures["rarefaction"]
    assert drawing._repr_svg_().startswith("<svg")
    drawing.save(tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").read_text() == drawing
    assert "SIDE at λ=2" in run._repr_html_()
    assert run.uri in repr(run)


def test_hostile_names_are_text_in_a_notebook(copied):
    store = open_store(str(copied))
    report = Artifact(store, Run(store).latest()["report"])
    hostile = json.dumps(report.read_json("metrics.json")).replace('"td"', '"<script>x</script>"')
    report.write_json("metrics.json", json.loads(hostile))
    shown = side_ray.open_run(copied)._repr_html_()
    assert "&lt;script&gt;" in shown
    assert "<script" not in shown


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run.matches("ti"), "ti is not in the report; choose one of: random λ=0, td λ=2"),
        (lambda run: run.matches("td", 3), "td λ=3 is not in the report; choose one of: td λ=2"),
        (lambda run: run.pair("td/2/100"), r"sample 100: SIDE at λ=2 has 0 … 99"),
        (lambda run: run.pair("td-2-1"), "'td-2-1' is no pair; write method/λ/sample_id"),
        (lambda run: run.pair(60), "training image 60: no sample is a copy of it"),
        (lambda run: side_ray.open_run("/nowhere"), "/nowhere: holds no report"),
    ],
)
def test_a_wrong_question_is_answered_in_one_line(run, call, message):
    with pytest.raises(UserError, match=message):
        call(run)
