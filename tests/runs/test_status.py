import json
import shutil
from pathlib import Path

import pytest

from side_ray.errors import UserError
from side_ray.runs.plan import Condition
from side_ray.runs.run import Artifact
from side_ray.runs.shards import FAILED
from side_ray.runs.status import rows
from side_ray.storage import open_store
from side_ray.training.trainer import PROGRESS


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
    (run / tiny_audit.dpm.key / "_done.json").unlink()
    (run / tiny_audit.dpm.key / PROGRESS).write_text(
        json.dumps({"step": 70, "steps": 160, "loss": 0.1, "rate": 7.5, "at": 4e9})
    )
    row = rows_by_stage(run)["train_dpm"]
    assert (row.done, row.left, row.rate) == (70, 90, 7.5)


def test_an_empty_directory_is_no_run(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        rows_by_stage(tmp_path)
