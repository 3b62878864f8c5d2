import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from side_ray.errors import NotThere, UserError
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.plan import Condition
from side_ray.runs.run import Artifact
from side_ray.runs.shards import FAILED
from side_ray.runs.status import PLAN, planned, record, rows
from side_ray.storage import open_store
from side_ray.studies.given import given_config
from side_ray.training.trainer import PROGRESS
from tests.audits import tiny_config


def rows_by_stage(root: Path) -> dict:
    return {row.stage: row for row in rows(open_store(str(root)), str(root))}


@pytest.fixture
def run(tiny_audit, tmp_path):
    shutil.copytree(tiny_audit.run.store.uri, tmp_path / "run")
    return tmp_path / "run"


def test_a_finished_run_has_nothing_left(tiny_audit):
    found = rows_by_stage(Path(tiny_audit.run.store.uri))
    assert {row.left for row in found.values()} == {0}
    assert found["train_dpm"].total == 160
    assert found["extract"].total == 3 * 200


def test_missing_and_failed_shards_are_counted_and_named(run, tiny_audit):
    shards = tiny_audit.samples(Condition("td", 2.0))
    for index in (1, 3):
        (run / shards.key(index)).unlink()
    Artifact(open_store(str(run)), shards.directory).write_json(FAILED, {"1": "ValueError: poison", "2": "made since"})
    row = rows_by_stage(run)["extract"]
    assert (row.done, row.left) == (500, 100)
    assert row.failed == (shards.key(1),)


def test_a_training_under_way_is_read_from_its_progress(run, tiny_audit):
    for mark in ("_done.json", "_done_copy.json"):
        (run / tiny_audit.dpm.key / mark).unlink()
    (run / tiny_audit.dpm.key / PROGRESS).write_text(
        json.dumps({"step": 70, "steps": 160, "loss": 0.1, "rate": 7.5, "at": 4e9})
    )
    row = rows_by_stage(run)["train_dpm"]
    assert (row.done, row.left, row.rate) == (70, 90, 7.5)


def test_what_a_run_recorded_is_read_without_its_data(tmp_path):
    """A run of given samples and one of an imported model, whose paths this machine does not have."""
    for name, path in (("s", "s"), ("t", "t")):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray(np.full((8, 8), number, np.uint8)).save(tmp_path / path / f"{number}.png")
    config = given_config(str(tmp_path / "s"), str(tmp_path / "t"), None, str(tmp_path / "run"))
    record(Artifacts.open(config))
    for name in "st":
        shutil.rmtree(tmp_path / name)
    found = rows_by_stage(tmp_path / "run")
    assert {stage: (row.done, row.total) for stage, row in found.items()} == {
        "prepare": (0, 1),
        "import": (0, 3),
        "score": (0, 3),
        "report": (0, 1),
    }
    assert found["import"].to_json() == {
        **{
            "stage": "import",
            "done": 0,
            "total": 3,
            "unit": "samples",
            "rate": None,
            "failed": (),
            "left": 3,
            "eta": None,
        }
    }


def test_an_imported_model_has_no_training_steps(run, tiny_audit):
    path = str(run / tiny_audit.dpm.key)
    artifacts = Artifacts.open(tiny_config(run, dpm__path=path, dpm__kind="import"))
    (row,) = [each for each in planned(artifacts) if each.stage == "train_dpm"]
    assert (row.kind, row.total, row.unit) == ("artifact", 1, "model")


def test_a_run_of_an_earlier_version_is_found_by_its_config_or_its_latest_artifacts(run, tiny_audit, monkeypatch):
    (run / PLAN).unlink()
    whole = rows_by_stage(run)

    def gone(*_):
        raise NotThere("data.path: there is no file or directory")

    monkeypatch.setattr("side_ray.runs.artifacts.open_pools", gone)
    found = rows_by_stage(run)
    assert found == whole
    assert {row.left for row in found.values()} == {0}


def test_an_empty_directory_is_no_run(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        rows_by_stage(tmp_path)
