"""Runs compared: a model that copies less is told from one that copies as much, and chance from neither."""

import json
import shutil
from unittest.mock import patch

import numpy as np
import pytest

from side_ray import algorithm
from side_ray.cli.app import app
from side_ray.diffusion.denoisers import made_from_members
from side_ray.errors import UserError
from side_ray.images import to_float
from side_ray.report.compare.view import cells, page, terminal_tables
from side_ray.results.recorded import Recorded
from side_ray.runs.run import Artifact, Run
from side_ray.sources.published.digits import load_digits
from side_ray.storage import open_store
from side_ray.studies.batch.history import extended
from side_ray.studies.compare import compare, compare_recorded, difference_of
from tests.local import audit_here, without_ray

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def runs(local_audit, tmp_path_factory):
    """The closed-form model; the same in batches of another size; and one that was made of other digits, which copies none of
    the members."""
    root = tmp_path_factory.mktemp("compare")
    first, mitigated = root / "first", root / "mitigated"
    for copy in (first, mitigated):
        shutil.copytree(local_audit.run.store.uri, copy)
    for stage in ("samples", "scores", "hits", "report"):
        shutil.rmtree(mitigated / stage)
    kind, dpm = made_from_members(local_audit.config.dpm), Artifact(open_store(str(mitigated)), local_audit.dpm.key)
    kind.save(kind.make(to_float(load_digits().images[600:660]), local_audit.config.dpm), root / "other")
    shutil.rmtree(mitigated / dpm.key)
    dpm.put_dir(root / "other")
    dpm.finish(kind="optimal", images=60)
    with patch("side_ray.stages.report.build_figures", return_value=[]):
        audit_here(mitigated)
        audit_here(root / "again", extract__batch_size=20)
    return {name: open_store(str(root / name)) for name in ("first", "again", "mitigated")}


def test_a_mitigated_model_has_fewer_copies(runs):
    found = compare([runs["first"], runs["mitigated"]])
    assert [(row["method"], row["paired"]) for row in found["rows"]] == [("random", True), ("td", True)]
    for row in found["rows"]:
        assert row["difference"] < -0.5
        assert row["difference"] == pytest.approx(row["excess"][1] - row["excess"][0])
        assert row["ci"][0] < row["difference"] < row["ci"][1] < 0
        assert row["p_adjusted"] < 1e-6
        assert row["ums"][1] < row["ums"][0]
        assert not row["worse"]
    back = compare([runs["mitigated"], runs["first"]])
    assert all(row["worse"] for row in back["rows"])


def test_other_settings_are_no_difference_by_themselves(runs):
    found = compare([runs["first"], runs["again"]])
    assert not any(row["worse"] for row in found["rows"])
    assert found["runs"][1]["changes"] == ["extract.batch_size: 30 → 20"]
    first = json.loads(runs["first"].read("latest.json"))["report"]
    metrics = json.loads(runs["first"].read(f"{first}/metrics.json"))
    for row, condition in zip(found["rows"], metrics["conditions"], strict=True):
        assert row["copies"][0] == condition["calibrated"]["ams"]
        assert row["ums"][0] == pytest.approx(condition["calibrated"]["ums"])
        assert (row["over"], row["excess"][0]) == ("images", pytest.approx(condition["excess"]))


def test_two_reports_of_one_run_directory_are_compared(runs, tmp_path):
    shutil.copytree(runs["mitigated"].uri, tmp_path / "run")
    store = open_store(str(tmp_path / "run"))
    before = Recorded.open(store)
    with patch("side_ray.stages.report.build_figures", return_value=[]):
        audit_here(tmp_path / "run", extract__batch_size=20)
    after = Recorded.open(store)
    assert before.key != after.key
    entries = extended(store, extended(store, [], row_of(before)), row_of(after))
    assert [entry["report"] for entry in entries] == [before.key, after.key]
    assert entries[1]["worse"] is False
    assert "no difference in copies beyond chance" in entries[1]["changed"]
    assert compare_recorded([after, before])["runs"][1]["changes"] == ["extract.batch_size: 20 → 30"]


@pytest.fixture
def audited_again(runs, tmp_path, monkeypatch):
    """The words of a batch on a model that copies less, already run, whose model was replaced since by one that copies more.
    Its steps are those that `audit_here` runs."""
    run = tmp_path / "run"
    shutil.copytree(runs["mitigated"].uri, run)
    (tmp_path / "base.yaml").write_bytes((run / "config.yaml").read_bytes())
    (tmp_path / "audits.yaml").write_text("{base: base.yaml, models: {one: []}}")
    words = ["batch", str(tmp_path / "audits.yaml"), f"run.uri={run}"]
    kept = tuple(step for step in algorithm.ALGORITHM if step.name not in ("label", "train_surrogate"))
    monkeypatch.setattr(algorithm, "ALGORITHM", kept)
    with without_ray():
        assert app(words, standalone_mode=False) == 0
        shutil.copytree(runs["again"].uri, run, dirs_exist_ok=True)
        yield [*words, "extract.batch_size=20"]


def test_a_batch_with_more_copies_than_before_exits_with_3_if_that_is_asked_for(audited_again, capsys):
    said = "batch: one/data: verdict none found → found;"
    assert app(audited_again, standalone_mode=False) == 0
    printed = capsys.readouterr()
    assert said in printed.out + printed.err
    for _ in range(2):  # as long as no newer report is better
        assert app([*audited_again, "--fail-worse"], standalone_mode=False) == 3
        printed = capsys.readouterr()
        (line,) = (
            line for line in printed.err.splitlines() if line.startswith("side-ray: more copies than in the report")
        )
        assert "one/data: " in line
        assert "SIDE at λ=2: more copies" in line
        assert "summary: " in printed.out


def row_of(report):
    """The audit in the summary of a batch."""
    verdict = report.metrics.get("verdict") or {}
    found = {"outcome": verdict.get("outcome"), "distinct": verdict.get("distinct")}
    return {"report": report.key, "train_size": report.metrics["train_size"], **found}


def test_the_interval_counts_samples_alone_where_the_images_differ(runs):
    with patch("side_ray.results.recorded.Recorded.excess", return_value=None):
        found = compare([runs["first"], runs["mitigated"]])
    for row, over_images in zip(found["rows"], compare([runs["first"], runs["mitigated"]])["rows"], strict=True):
        assert (row["over"], over_images["over"]) == ("samples", "images")
        assert row["copies"] == over_images["copies"]
        assert row["excess"][0] == pytest.approx(over_images["excess"][0], abs=0.1)
    assert any("*" in cell for row in found["rows"] for cell in cells(row))


def test_the_table_and_the_page_hold_every_row_and_escape_names(runs):
    found = compare([runs["first"], runs["mitigated"], runs["again"]])
    assert [table.row_count for table in terminal_tables(found)] == [2, 2]
    found["runs"][1]["uri"] = "<script>alert(1)</script>"
    html = page(found)
    assert html.count("fewer copies") == 2
    assert html.count("no difference shown") == 2
    assert "<script" not in html
    json.dumps(found, allow_nan=False)


def test_runs_that_cannot_be_compared_are_refused(runs, tmp_path):
    shutil.copytree(runs["first"].uri, tmp_path / "run")
    store = open_store(str(tmp_path / "run"))
    report = Artifact(store, Run(store).latest()["report"])
    whole = json.dumps(report.read_json("metrics.json"))
    report.write_json("metrics.json", json.loads(whole.replace('"td"', '"ti"').replace('"random"', '"given"')))
    with pytest.raises(UserError, match=r"no condition is in both runs: .*first has Random; SIDE at λ=2"):
        compare([runs["first"], store])
    report.write_json("metrics.json", json.loads(whole.replace('"name": "nl2"', '"name": "sscd"')))
    with pytest.raises(UserError, match=r"was scored by nl2, [^;]* by sscd; score both alike"):
        compare([runs["first"], store])
    with pytest.raises(UserError, match="holds no report"):
        compare([runs["first"], open_store(str(tmp_path))])


def test_equal_models_are_called_different_no_more_often_than_promised():
    rng = np.random.default_rng(5)
    for paired in (True, False):
        wrong = outside = 0
        for _ in range(200):
            before, after = (rng.choice([-1, 0, 1], 300, p=[0.02, 0.9, 0.08]) for _ in range(2))
            _, ci, p_value = difference_of(before, after, paired)
            wrong += p_value < 0.05
            outside += not ci[0] <= 0 <= ci[1]
        assert wrong <= 18
        assert outside <= 20


def test_exact_tests_of_small_counts():
    before, after = np.zeros(200, int), np.zeros(200, int)
    after[:8] = 1
    assert difference_of(before, after, True)[2] == pytest.approx(2 / 2**8)
    assert difference_of(before, before, True)[2] == 1
    low, high = difference_of(before, before, False)[1]
    assert low < -0.01 < 0.01 < high
