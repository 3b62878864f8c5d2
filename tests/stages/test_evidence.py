"""The verdict of a small audit without Ray, recomputed from its files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from side_ray.config.file import parse_config
from side_ray.results.evidence import side_by_side
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.plan import Condition
from side_ray.runs.scores import read_pool
from side_ray.runs.status import record, rows
from side_ray.studies.sweep_plan import SweepPlan
from tests.bruteforce import check, main
from tests.local import audit_here

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("undrawn")]


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    return audit_here(tmp_path_factory.mktemp("evidence") / "run", extract__samples=200)


def test_a_model_that_memorised_everything_is_found_and_every_number_agrees(audited):
    verdict = audited.report.read_json("metrics.json")["verdict"]
    assert (verdict["outcome"], verdict["reason"]) == ("found", "counted")
    assert verdict["distinct"] >= 50
    assert check(audited.run.store.uri) == []


def test_brute_force_would_notice_a_wrong_verdict(audited, tmp_path):
    shutil.copytree(audited.run.store.uri, tmp_path / "run")
    path = tmp_path / "run" / audited.report.key / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["verdict"]["distinct"] -= 1
    metrics["conditions"][0]["excess"] += 0.005
    metrics["conditions"][1]["crossfit"]["unseen_counts"][1] += 1
    path.write_text(json.dumps(metrics))
    faults = check(tmp_path / "run")
    assert [fault.split(": ")[0] for fault in faults] == [
        "method=random/lambda=0.0 excess",
        "method=td/lambda=2.0 crossfit.unseen_counts",
        "method=td/lambda=2.0 crossfit.unseen",
        "verdict.distinct",
    ]


@pytest.mark.parametrize("content", [None, "{}", "[]", '{"report": "report/x"}', "{"])
def test_brute_force_of_what_is_no_run_ends_in_one_line(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "latest.json").write_text(content)
    assert main([str(tmp_path)]) == 2
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_training_loses_all_privacy(audited):
    """60 pairs can show at most ε = 2.97; 300 show more than 3 (`tests/execution/test_privacy.py`)."""
    found = audited.report.read_json("metrics.json")["privacy"]
    assert found["pairs"] == 60
    loss = next(each for each in found["guessers"] if each["score"] == "loss" and each["share"] == 1)
    assert loss["right"] == loss["guesses"] == 60
    assert 2.5 < found["epsilon"] < found["most"] == pytest.approx(2.97, abs=0.01)
    assert found["attacks"]["loss"]["auc"] > 0.98


def test_the_step_of_the_losses_is_in_the_status(audited):
    store = audited.run.store
    (row,) = [each for each in rows(store, store.uri) if each.stage == "privacy"]
    assert (row.done, row.total, row.unit) == (180, 180, "images")
    record(audited)
    assert {each.left for each in rows(store, store.uri) if each.stage == "privacy"} == {0}


def test_the_settings_of_a_sweep_are_weighed_as_the_conditions_of_an_audit(audited):
    """Their scores are the audit's, so no Ray is needed."""
    plan = SweepPlan(Artifacts(parse_config(sweep_values(audited), "sweep"), audited.run))
    rows = side_by_side(plan.artifacts)
    assert [each.scale for each in rows] == [0.0, 2.0]
    for row, condition in zip(rows.values(), audited.report.read_json("metrics.json")["conditions"], strict=True):
        assert {key: condition[key] for key in row} == row
        assert row["equal_cost"]["samples"] > 0
    assert "excess_over_random" in list(rows.values())[1]


def sweep_values(audited: Artifacts) -> dict:
    return audited.config.model_dump(mode="json") | {"sweep": {"lambdas": [0, 2]}}


def test_unseen_neighbours_are_numbered_through_in_the_members_unit(audited):
    table = audited.scores(Condition("random", 0.0)).read(0)
    ids = np.array(table.column("unseen_neighbor_ids").to_pylist())
    assert ids.shape == (50, 50)
    assert ids.min() >= 0
    assert 60 <= ids.max() < 120
    values = np.array(table.column("unseen_neighbor_values").to_pylist())
    assert (np.diff(values, axis=1) >= 0).all()
    assert table.column("stratum").null_count == 0


def test_strata_cover_every_image_and_the_ledger_every_member(audited):
    pool = read_pool(audited)
    assert pool.stratum.shape == (180,)
    ledger = pq.read_table(Path(audited.run.store.uri) / audited.report.key / "ledger.parquet")
    assert ledger.column("train_id").to_pylist() == list(range(60))
    metrics = audited.report.read_json("metrics.json")
    assert len(metrics["ledger"]["rows"]) == min(metrics["ledger"]["revealed"], 50)
    assert metrics["ledger"]["rows"][0]["matches"] > 0
    assert ledger.column("stratum").to_pylist() == pool.stratum[:60].tolist()
    extracted = pq.read_table(Path(audited.run.store.uri) / audited.report.key / "extracted.parquet")
    q = dict(zip(ledger.column("train_id").to_pylist(), ledger.column("q_value").to_pylist(), strict=True))
    assert all(q[row["train_id"]] == row["q_value"] for row in extracted.to_pylist())
