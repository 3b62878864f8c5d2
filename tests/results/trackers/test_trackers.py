"""A finished audit is logged once to a tracker, and loses nothing where that fails.

The trackers' packages are no dependencies. Their calls are checked on stand-ins; where a package is installed, the same audit is
logged by it too, into a local folder.
"""

import io
import json
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
from rich.console import Console

from side_ray.errors import NotThere
from side_ray.execution.audit import Audit
from side_ray.execution.progress import Reporter
from side_ray.results.trackers.clients import CLIENTS, Finished
from side_ray.results.trackers.tracked import TRACKED, numbers
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.preflight import preflight
from side_ray.stages.report import report
from tests.local import without_ray


class Trackio(ModuleType):
    """Of the real module what is called, with the same signatures."""

    def __init__(self):
        super().__init__("trackio")
        self.told = []

    def init(self, project, *, name, config, embed, private, auto_log_cpu, auto_log_gpu):
        assert private
        self.told.append({"project": project, "config": config, "name": name, "files": {}})
        return SimpleNamespace(name=name)

    def Artifact(self, name, type):
        def add_file(path, name):
            self.told[-1]["files"][name] = path.read_bytes()

        return SimpleNamespace(add_file=add_file)

    def log(self, metrics):
        self.told[-1]["numbers"] = metrics

    def log_artifact(self, artifact):
        self.told[-1]["artifact"] = artifact

    def finish(self):
        self.told[-1]["finished"] = True


@pytest.fixture
def trackio(monkeypatch):
    module = Trackio()
    monkeypatch.setitem(sys.modules, "trackio", module)
    return module


@pytest.fixture
def reported(local_audit, copied):
    """Makes the report of a finished audit again with a tracker, and returns what was printed."""

    def run(tracker) -> str:
        config = local_audit.config
        config = config.model_copy(
            update={
                "run": config.run.model_copy(update={"uri": str(copied)}),
                "report": config.report.model_copy(update={"tracker": tracker}),
            }
        )
        printed = io.StringIO()
        audit = Audit(Artifacts.open(config), Reporter(Console(file=printed, width=1000)))
        assert audit.artifacts.report.key == local_audit.report.key
        with without_ray():
            report(audit)
        return printed.getvalue()

    return run


def metrics_of(copied):
    latest = json.loads((copied / "latest.json").read_text())
    return json.loads((copied / latest["report"] / "metrics.json").read_text())


def test_a_finished_audit_is_logged_once(trackio, reported, copied):
    assert "logged to trackio, project side-ray, run run" in reported("trackio")
    assert "logged" not in reported("trackio")
    (told,) = trackio.told
    metrics = metrics_of(copied)
    row = next(row for row in metrics["conditions"] if row["method"] == "td")
    assert told["finished"]
    assert told["numbers"]["td/lambda_2/calibrated/ams"] == row["calibrated"]["ams"]
    assert told["numbers"]["td/lambda_2/cumulative/mid/ums"] == row["cumulative"]["mid"]["ums"]
    assert told["numbers"]["td/lambda_2/excess"] == row["excess"]
    assert told["numbers"]["verdict/distinct"] == metrics["verdict"]["distinct"]
    assert told["config"]["outcome"] == metrics["verdict"]["outcome"]
    assert told["config"]["extract"]["lambdas"] == [0, 2]
    assert told["files"]["report.html"] == (copied / "report.html").read_bytes()
    assert json.loads(told["files"]["metrics.json"]) == {key: metrics[key] for key in metrics if key != "sealed"}
    # Another tracker is another place.
    (copied / TRACKED).unlink()
    reported("trackio")
    assert len(trackio.told) == 2


def test_a_tracker_that_fails_is_one_line_and_is_tried_again(trackio, reported, copied, monkeypatch):
    def refuse(*given):
        raise ConnectionError("no way to https://me:secret@example.org/api\nand more")

    whole = Trackio.log
    monkeypatch.setattr(Trackio, "log", refuse)
    (line,) = (line for line in reported("trackio").splitlines() if "tracker" in line)
    assert line.startswith("warning: report.tracker: trackio has not logged this audit (ConnectionError: no way to")
    assert "the audit itself is complete, run it again to log it" in line
    assert "secret" not in line
    assert not (copied / TRACKED).exists()
    monkeypatch.setattr(Trackio, "log", whole)
    assert "logged to trackio" in reported("trackio")


@pytest.mark.parametrize("spec", [None, ModuleSpec("trackio", None)], ids=["nothing", "only a folder of that name"])
def test_a_package_that_is_missing_is_told_before_anything_runs(local_audit, monkeypatch, spec):
    config = local_audit.config
    config = config.model_copy(update={"report": config.report.model_copy(update={"tracker": "trackio"})})
    monkeypatch.setattr("side_ray.runs.preflight.find_spec", lambda name: spec)
    with pytest.raises(NotThere, match=r"^report\.tracker: trackio is not installed here; pip install trackio"):
        preflight(Artifacts.open(config))


def test_numbers_are_flat_and_none_is_left_out():
    shares = {"ams": 0.5, "ums": 0.25, "holdout_ams": None}
    row = {"method": "given", "lambda": 0.0, "bands": {"mid": shares}, "cumulative": {}, "calibrated": None}
    verdict = {"outcome": "cannot_say", "distinct": None, "copied": None}
    assert numbers({"verdict": verdict, "cut": None, "train_size": 4, "conditions": [row]}) == {
        "verdict/found": 0.0,
        "train_size": 4.0,
        "given/lambda_0/bands/mid/ams": 0.5,
        "given/lambda_0/bands/mid/ums": 0.25,
    }


@pytest.mark.parametrize("tracker", sorted(CLIENTS))
def test_the_real_package_takes_it(tracker, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "WANDB_MODE": "offline",
        **{f"WANDB_{name}DIR": str(tmp_path) for name in ("", "DATA_", "CACHE_")},
        "MLFLOW_TRACKING_URI": str(tmp_path / "mlruns"),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
    }.items():
        monkeypatch.setenv(name, value)
    pytest.importorskip(tracker)
    settings = {f"key{number}": None for number in range(150)}
    finished = Finished(
        name="digits",
        config={"run": {"uri": "runs/digits"}, "extract": settings},
        numbers={"verdict/found": 1.0, "td/lambda_0.5/calibrated/ams": 0.25},
        texts={"outcome": "found", "verdict": "Memorisation found."},
        files={"report.html": b"<!DOCTYPE html>", "metrics.json": b"{}"},
    )
    assert CLIENTS[tracker](finished)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(b"lambda_0.5" in str(path).encode() + path.read_bytes() for path in written)
    assert any(b"<!DOCTYPE html>" in path.read_bytes() for path in written)
