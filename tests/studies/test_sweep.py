"""A sweep on a real Ray Tune: shared stages, numbers equal to those of audits, interruptions and failures."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from side_ray.algorithm import run_until
from side_ray.config.file import load_config
from side_ray.errors import RunError
from side_ray.execution.progress import Reporter
from side_ray.storage import open_store
from side_ray.studies.sweep import sweep
from tests.audits import tiny_config, tiny_values
from tests.local import without_ray

STAGES = ("prepare", "dpm", "synthetic", "surrogate", "samples", "scores", "hits")


def stamps(root: Path) -> dict[str, int]:
    """Modification time of each file of the stages."""
    files = [path for stage in STAGES for path in (root / stage).rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in files}


def table(root: Path, plan) -> list[dict]:
    return pq.read_table(root / plan.results.key / "sweep.parquet").to_pylist()


def numbers(row: dict) -> dict:
    """A row of the sweep's table, reduced to the columns of an audit's table."""
    own = {"labels", "classes", "arch", "steps", "interval_from", "interval_to", "status", "planned"}
    own |= {"equal_cost_samples", "equal_cost_distinct"}
    return {key: value for key, value in row.items() if key not in own and value is not None}


def audit_rows(root: Path, artifacts) -> list[dict]:
    """The rows of an audit's metrics.csv, with numbers parsed, without what depends on the other conditions' cost and without the
    second opinions, which a sweep does not ask for."""
    left_out = ("equal_cost", "ratio", "authenticity", "copying", "frechet")
    with open(root / artifacts.report.key / "metrics.csv") as file:
        return [
            {key: _number(word) for key, word in row.items() if word and not key.startswith(left_out)}
            for row in csv.DictReader(file)
        ]


def _number(word: str):
    try:
        return float(word)
    except ValueError:
        return word


@pytest.fixture(scope="module")
def swept(tiny_audit, tmp_path_factory):
    """A sweep over two C in the run of an audit of one of them: the run directory, its files before, the plan, the outcomes."""
    root = tmp_path_factory.mktemp("sweep") / "run"
    shutil.copytree(tiny_audit.run.store.uri, root)
    before = stamps(root)
    config = tiny_config(root, sweep__classes=[3, 5], sweep__lambdas=[0, 2], sweep__max_concurrent_trials=2)
    plan, outcomes = sweep(config, Reporter())
    return root, before, plan, outcomes


def test_shared_stages_are_made_once(swept, tiny_audit):
    root, before, _plan, _ = swept
    after = stamps(root)
    assert {name: after[name] for name in before} == before
    new = [name for name in after if name not in before]
    # One more student, and its condition of four shards, with scores and hits (Random and the other student's existed).
    assert len({name.split("/")[1] for name in new if name.startswith("surrogate")}) == 1
    assert sum(name.startswith("samples") for name in new) == 4
    assert sum(name.startswith("scores") for name in new) == 4
    assert sum(name.startswith("hits") for name in new) == 4
    assert not any(name.startswith(("prepare", "dpm", "synthetic")) for name in new)


def test_the_table_equals_the_audits(swept, tiny_audit):
    root, _, plan, _ = swept
    other = tiny_config(root, extract__methods=["random", "td"], surrogate__classes=3)
    with without_ray():
        audits = [tiny_audit, run_until("report", other, Reporter()).artifacts]
    rows = table(root, plan)
    for artifacts in audits:
        directory = Path(artifacts.run.store.uri)
        classes = artifacts.config.surrogate.classes
        for theirs in audit_rows(directory, artifacts):
            if theirs["method"] == "ti":
                continue
            own = classes if theirs["lambda"] else None
            keys = ("method", "lambda", "kind", "band")
            mine = [r for r in rows if r["classes"] == own and [r[k] for k in keys] == [theirs[k] for k in keys]]
            assert [numbers(row) for row in mine] == [theirs]
    assert {row["n"] for row in rows} == {200}


def test_the_table_is_sorted_and_csv_says_the_same(swept):
    root, _, plan, _ = swept
    rows = table(root, plan)
    order = list(dict.fromkeys((row["classes"] or 0, row["lambda"]) for row in rows))
    assert order == [(0, 0.0), (3, 2.0), (5, 2.0)]
    with open(root / plan.results.key / "sweep.csv") as file:
        assert [float(row["ams"]) for row in csv.DictReader(file)] == [row["ams"] for row in rows]


def test_the_best_setting_is_a_config_that_audit_takes_and_samples_nothing(swept):
    root, _, plan, outcomes = swept
    best = max(outcomes, key=lambda each: each.metrics["calibrated"]["ams"])
    config = load_config(root / plan.results.key / "best.yaml")
    assert config.extract.lambdas == [0.0, best.scale]
    before = stamps(root)
    with without_ray():
        artifacts = run_until("report", config, Reporter()).artifacts
    assert {name: value for name, value in stamps(root).items() if name in before} == before
    conditions = artifacts.report.read_json("metrics.json")["conditions"]
    assert conditions[-1]["calibrated"]["ams"] == best.metrics["calibrated"]["ams"]


def test_trials_report_their_metrics_after_each_shard(swept):
    root, _, plan, _ = swept
    (rung,) = (root / plan.results.key / "tune").iterdir()
    directories = sorted(path for path in rung.iterdir() if path.is_dir())
    assert [path.name for path in directories] == sorted(each.name for each in plan.settings)
    for directory in directories:
        with open(directory / "progress.csv") as file:
            rows = list(csv.DictReader(file))
        assert [int(row["samples"]) for row in rows] == [50, 100, 150, 200]
        for name in ("ams/low", "ums/mid", "ums_best/high", "ams/calibrated", "ams/cumulative-low"):
            assert all(0 <= float(row[name]) <= 100 for row in rows)
        assert list(directory.glob("events.out.tfevents.*"))


def test_a_second_sweep_makes_nothing_and_says_the_same(swept, ray_session):
    root, _, plan, outcomes = swept
    before = stamps(root)
    again, same = sweep(plan.config, Reporter())
    assert stamps(root) == before
    assert again.results.key == plan.results.key
    assert same == outcomes


@pytest.mark.slow
def test_stopped_early_the_others_numbers_stay(swept, ray_session):
    root, _, plan, outcomes = swept
    before = stamps(root)
    stopping = tiny_config(
        root,
        sweep__classes=[3, 5],
        sweep__lambdas=[0, 2],
        sweep__early_stopping={"after": [0.25], "keep": 0.3},
    )
    early, halved = sweep(stopping, Reporter())
    assert stamps(root) == before
    assert early.results.key != plan.results.key
    whole = {each.name: each for each in outcomes}
    finished = [each for each in halved if each.status == "finished"]
    assert 1 <= len(finished) < len(outcomes)
    assert all(each == whole[each.name] for each in finished)
    stopped = [each for each in halved if each.status == "stopped"]
    assert {each.metrics["n"] for each in stopped} == {50}
    assert len(stopped) + len(finished) == len(outcomes)
    assert {row["status"] for row in table(root, early)} == {"finished", "stopped"}


@pytest.mark.slow
def test_a_failed_trial_is_named_and_retried_later(swept, ray_session):
    root, _, plan, _outcomes = swept
    config = tiny_config(root, sweep__classes=[3, 5], sweep__lambdas=[3], sweep__retries=0)
    student = next(each for each in plan.settings if each.classes == 3)
    weights = root / plan.artifacts[student].surrogate.key / "student" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    with pytest.raises(
        RunError, match=r"sweep: 1 of 2 trials failed: cluster,classes=3,small,steps=4,lambda=3\.0"
    ) as caught:
        sweep(config, Reporter())
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    weights.write_bytes(whole)
    before = stamps(root)
    _, made = sweep(config, Reporter())
    assert [each.status for each in made] == ["finished"] * 2
    after = stamps(root)
    assert {name: after[name] for name in before if name != str(weights.relative_to(root))} == {
        name: value for name, value in before.items() if name != str(weights.relative_to(root))
    }
    assert sum(name.startswith("samples") for name in after if name not in before) == 4


@pytest.mark.slow
def test_a_damaged_shard_is_made_again(swept, ray_session):
    root, _, plan, outcomes = swept
    config = tiny_config(root, sweep__classes=[5], sweep__lambdas=[0, 2], sweep__score="ums")
    guided = next(each for each in plan.settings if each.classes == 5)
    for found in (plan.artifacts[guided].samples(guided.condition), plan.artifacts[guided].scores(guided.condition)):
        path = root / found.key(2)
        path.write_bytes(path.read_bytes()[:300])
    _, made = sweep(config, Reporter())
    whole = {each.name: each.metrics for each in outcomes}
    assert all(each.metrics == whole[each.name] for each in made)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_sweep_resumes_and_repeats_no_trial(tmp_path):
    root = tmp_path / "run"
    values = tiny_values(str(root), sweep__classes=[3, 5], sweep__lambdas=[0, 1, 2, 4], dpm__kind="optimal")
    values["extract"] |= {"steps": 20, "samples": 400}
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "side_ray.cli", "sweep", str(path)]
    with open(os.devnull, "w") as nowhere, subprocess.Popen(command, stdout=nowhere, stderr=nowhere) as driver:
        deadline = time.monotonic() + 250
        while len(list(root.glob("sweep/*/trials/*/*.json"))) < 3:
            assert driver.poll() is None, "the sweep ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(driver.pid, signal.SIGKILL)
    time.sleep(5)  # time for Ray's processes to notice that their driver is gone
    before = stamps(root)
    results = {p: p.stat().st_mtime_ns for p in root.glob("sweep/*/trials/*/*.json")}
    assert 3 <= len(results) < 7
    again = subprocess.run(command, capture_output=True, text=True, timeout=800)
    assert again.returncode == 0, again.stderr
    assert "sweep: resuming" in again.stderr
    after = stamps(root)
    assert {name: after[name] for name in before} == before
    assert {p: p.stat().st_mtime_ns for p in results} == results
    assert len(list(root.glob("sweep/*/trials/*/*.json"))) == 7
    assert "samples: 2,800 of 2,800" in again.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_in_object_storage(s3, tmp_path):
    uri = f"s3://{s3.bucket}/sweeps/tiny"
    values = tiny_values(uri, dpm__kind="optimal", extract__steps=10, sweep__lambdas=[0, 2])
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "side_ray.cli", "sweep", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **s3.env}, timeout=800)
    assert result.returncode == 0, result.stderr
    keys = [entry.key for entry in open_store(uri).list("sweep")]
    for name in ("sweep.csv", "sweep.parquet", "best.yaml", "_done.json"):
        assert sum(key.endswith(f"/{name}") for key in keys) == 1
    assert sum("events.out.tfevents" in key for key in keys) == 2
    assert not [key for key in keys if key.endswith("_lease.json")]
