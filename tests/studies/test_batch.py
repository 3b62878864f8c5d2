"""A matrix of models and data sets: order, budget, failures, shared stages, and the summary."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from side_ray.errors import RunError, UserError
from side_ray.execution.progress import Reporter
from side_ray.storage import open_store
from side_ray.storage.sealed import write_json
from side_ray.studies.batch import history
from side_ray.studies.batch import run as batch
from side_ray.studies.batch.plan import read_batch
from side_ray.studies.batch.run import run_batch
from tests.audits import TINY
from tests.report.conftest import judged, unjudged


def write(tmp_path: Path, **changes: Any) -> str:
    values = {
        "base": str(TINY),
        "models": {"early": ["dpm.steps=80"], "late": []},
        "data": {"few": ["data.members=50"], "many": []},
        **changes,
    }
    path = tmp_path / "audits.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
    return str(path)


def at(tmp_path: Path) -> list[str]:
    return [f"run.uri={tmp_path / 'run'}"]


def test_every_model_is_audited_on_every_data_set(tmp_path):
    _, planned = read_batch(write(tmp_path), at(tmp_path))
    assert [each.name for each in planned] == ["early/few", "early/many", "late/few", "late/many"]
    assert [(each.config.dpm.steps, each.config.data.members) for each in planned] == [
        (80, 50),
        (80, 60),
        (160, 50),
        (160, 60),
    ]
    assert {each.config.run.uri for each in planned} == {str(tmp_path / "run")}


def test_the_highest_priority_runs_first(tmp_path):
    path = write(tmp_path, priorities={"late/*": 1, "early/many": 5, "*/few": -1})
    assert [each.name for each in read_batch(path, at(tmp_path))[1]] == [
        "early/many",
        "late/few",
        "late/many",
        "early/few",
    ]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": {}}, "audits.yaml: model: unknown key"),
        ({"models": {}}, "audits.yaml: models"),
        ({"base": None}, "audits.yaml: base: is missing"),
        ({"base": "gone.yaml"}, "gone.yaml: no such config file"),
        ({"models": {"a b": []}}, "audits.yaml: models"),
        ({"hours": 0}, "audits.yaml: hours"),
        ({"priorities": {"late": 1}}, "'late' is no audit of this file; write model/data"),
        ({"models": {"early": ["dpm.stepps=3"]}}, "early/few: override 'dpm.stepps=3': dpm.stepps: unknown key"),
        ({"data": {"a": ["run.uri=x"], "b": ["run.uri=y"]}}, "share one run directory"),
        ({"data": {"a": ["data.path=s3://key:hunter2@bucket/x"]}}, "credentials"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_starts(changes, says, tmp_path):
    overrides = [] if "share" in says else at(tmp_path)
    with pytest.raises(UserError) as caught:
        read_batch(write(tmp_path, **changes), overrides)
    assert says in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert not (tmp_path / "run").exists()


class Audits:
    """Stands for `run_until`: each audit takes an hour, and some fail."""

    def __init__(self, failing: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        self.failing, self.ran, self.now = failing, list[tuple[int, int]](), 0.0

    def __call__(self, last: str, config: Any, reporter: Reporter) -> Any:
        self.ran.append((config.dpm.steps, config.data.members))
        self.now += 3600
        if len(self.ran) in self.failing:
            raise UserError("<b>is not there</b>; check the path", "data.path")
        report = SimpleNamespace(key=f"report/{len(self.ran)}", read_json=lambda name: judged(unjudged(), "found"))
        return SimpleNamespace(artifacts=SimpleNamespace(report=report))


def summary(tmp_path: Path) -> list[dict[str, Any]]:
    found = json.loads((tmp_path / "run" / "batch" / "batch.json").read_text())
    return found["audits"]


def test_a_failed_audit_does_not_stop_the_others(tmp_path, monkeypatch):
    audits = Audits(failing={2})
    monkeypatch.setattr(batch, "run_until", audits)
    with pytest.raises(
        RunError, match=r"batch: 1 failed \(early/many\) of 4 audits; the others are complete"
    ) as caught:
        run_batch(write(tmp_path), at(tmp_path), Reporter(quiet=True))
    assert caught.value.exit_code == 1
    assert len(audits.ran) == 4
    assert [row["state"] for row in summary(tmp_path)] == ["done", "failed", "done", "done"]
    page = (tmp_path / "run" / "batch" / "index.html").read_text()
    assert "3 of 4 audits are complete, 1 failed." in page
    assert "data.path: &lt;b&gt;is not there&lt;/b&gt;" in page
    assert '<a href="../report/1/index.html">early</a>' in page


def test_no_audit_starts_when_the_budget_is_used_up(tmp_path, monkeypatch):
    audits = Audits()
    monkeypatch.setattr(batch, "run_until", audits)
    path = write(tmp_path, hours=1.5)
    with pytest.raises(RunError, match=r"batch: 2 left \(late/few, late/many\) of 4 audits"):
        run_batch(path, at(tmp_path), Reporter(quiet=True), lambda: audits.now)
    assert [row["state"] for row in summary(tmp_path)] == ["done", "done", "left", "left"]
    assert [row["hours"] for row in summary(tmp_path)] == [1, 1, None, None]


def test_a_complete_batch_returns_its_summary(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "run_until", Audits())
    table, address, worse = run_batch(write(tmp_path), at(tmp_path), Reporter(quiet=True))
    assert worse == []
    assert table.row_count == 4
    assert address == f"{tmp_path / 'run'}/batch/index.html"
    assert Path(address).exists()


def compared(difference: float, p_value: float) -> Any:
    """Stands for the comparison of two reports (tests/studies/test_compare.py): one condition."""
    row = {"run": 1, "method": "td", "lambda": 5.0, "excess": [0.01, 0.01 + difference], "difference": difference}
    row |= {"p_adjusted": p_value, "worse": difference > 0 and p_value < 0.05}
    return lambda pair: {"rows": [row]}


def rerun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> list[str]:
    """The batch run again; the models' reports are others if `number` is."""
    metrics = judged(unjudged(), "found")
    report = SimpleNamespace(key=f"report/{number}", read_json=lambda name: metrics)
    (tmp_path / "run" / "report" / str(number)).mkdir(parents=True, exist_ok=True)
    write_json(open_store(str(tmp_path / "run")), f"report/{number}/metrics.json", metrics)
    done = SimpleNamespace(artifacts=SimpleNamespace(report=report))
    monkeypatch.setattr(batch, "run_until", lambda *given: done)
    path = write(tmp_path, models={"late": []}, data={"few": ["data.members=50"]})
    return run_batch(path, at(tmp_path), Reporter(quiet=True))[2]


def history_of(tmp_path: Path) -> list[dict[str, Any]]:
    return json.loads((tmp_path / "run" / "batch" / "batch.json").read_text())["history"]["late/few"]


def test_a_new_report_is_compared_with_the_one_before_and_an_old_one_is_not(tmp_path, monkeypatch):
    assert rerun(tmp_path, monkeypatch, 1) == []
    monkeypatch.setattr(history, "compare_recorded", compared(0.02, 1e-4))
    assert rerun(tmp_path, monkeypatch, 1) == []
    assert len(history_of(tmp_path)) == 1
    (line,) = rerun(tmp_path, monkeypatch, 2)
    assert line == "late/few: SIDE at λ=5: more copies, excess 1.00 → 3.00% of samples"
    assert rerun(tmp_path, monkeypatch, 2) == [line]  # the same until a newer report
    monkeypatch.setattr(history, "compare_recorded", compared(0.02, 0.2))
    assert rerun(tmp_path, monkeypatch, 3) == []
    monkeypatch.setattr(history, "compare_recorded", compared(-0.02, 1e-4))
    assert rerun(tmp_path, monkeypatch, 4) == []
    entries = history_of(tmp_path)
    assert [entry["report"] for entry in entries] == [f"report/{number}" for number in (1, 2, 3, 4)]
    assert [entry["worse"] for entry in entries] == [False, True, False, False]
    assert entries[2]["changed"] == "no difference in copies beyond chance"
    assert "fewer copies" in entries[3]["changed"]
    page = (tmp_path / "run" / "batch" / "index.html").read_text()
    places = [page.index(f'<a href="../report/{number}/index.html">late/few</a>') for number in (4, 3, 2, 1)]
    assert places == sorted(places)
    assert "more copies, excess 1.00 → 3.00% of samples" in page


def test_reports_that_cannot_be_compared_are_not_passed_over(tmp_path, monkeypatch):
    rerun(tmp_path, monkeypatch, 1)
    (tmp_path / "run" / "report" / "1" / "metrics.json").unlink()
    (line,) = rerun(tmp_path, monkeypatch, 2)
    assert line.startswith("late/few: cannot be compared with report/1: ")
    assert history_of(tmp_path)[1]["worse"] is None


def test_a_batch_of_an_earlier_version_is_the_first_of_its_history(tmp_path, monkeypatch):
    rerun(tmp_path, monkeypatch, 1)
    path = tmp_path / "run" / "batch" / "batch.json"
    old = json.loads(path.read_text())
    del old["history"]
    write_json(open_store(str(tmp_path / "run")), "batch/batch.json", {key: old[key] for key in ("schema", "audits")})
    monkeypatch.setattr(history, "compare_recorded", compared(0.02, 1e-4))
    assert len(rerun(tmp_path, monkeypatch, 2)) == 1
    assert [entry["report"] for entry in history_of(tmp_path)] == ["report/1", "report/2"]


def test_what_changed_names_the_verdict_and_the_images():
    before, after = {"outcome": "none_found", "distinct": 0}, {"outcome": "found", "distinct": 1200}
    told = history.said(before, after, compared(0.02, 1e-4)(None)["rows"])
    assert told.startswith("verdict none found → found; training images revealed 0 → 1,200; SIDE at λ=5: more copies")


@pytest.mark.slow
def test_shared_stages_are_made_once_and_a_second_run_makes_nothing(tmp_path, ray_session):
    changes = {"models": {"one": [], "two": ["dpm.steps=40"]}, "data": {"nl2": [], "wide": ["score.neighbors=60"]}}
    overrides = [*at(tmp_path), "report.pdf=false", "report.figures=false", "cluster.actors=[1,1]"]
    run_batch(write(tmp_path, **changes), overrides, Reporter(quiet=True))
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("part-*.parquet")}
    assert [len(list((tmp_path / "run" / stage).iterdir())) for stage in ("prepare", "dpm", "report")] == [1, 2, 4]
    run_batch(write(tmp_path, **changes), overrides, Reporter(quiet=True))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("part-*.parquet")} == made
    for row in summary(tmp_path):
        assert (tmp_path / "run" / row["report"] / "index.html").exists()
