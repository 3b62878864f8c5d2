import json

import pytest

from side_ray.runs.run import Run, fingerprint
from side_ray.storage import open_store


@pytest.fixture
def run(tmp_path):
    return Run(open_store(str(tmp_path / "run")))


def test_fingerprint_depends_on_content_alone():
    assert fingerprint({"a": 1, "b": [2.0]}, "x") == fingerprint({"b": [2.0], "a": 1}, "x")
    assert len({fingerprint(1), fingerprint(2), fingerprint("1"), fingerprint([1]), fingerprint(1, None)}) == 5
    assert len(fingerprint()) == 12


def test_artifact_is_done_only_after_finish(run):
    artifact = run.artifact("prepare", {"members": 3})
    assert not artifact.done
    artifact.write_json("something.json", [1])
    assert not artifact.done
    artifact.finish(rows=3)
    assert run.artifact("prepare", {"members": 3}).done
    assert artifact.info() == {"rows": 3}
    assert not run.artifact("prepare", {"members": 4}).done


def test_child_shares_the_fingerprint(run):
    artifact = run.artifact("surrogate", 1)
    assert artifact.child("student").key == f"{artifact.key}/student"
    assert artifact.child("student").fingerprint == artifact.fingerprint


def test_latest_keeps_other_entries(run):
    assert run.latest() == {}
    run.point_latest(prepare="prepare/a", samples={"method=td/lambda=5.0": "samples/b/method=td/lambda=5.0"})
    run.point_latest(dpm="dpm/c")
    assert json.loads(run.store.read("latest.json")) == {
        "prepare": "prepare/a",
        "dpm": "dpm/c",
        "samples": {"method=td/lambda=5.0": "samples/b/method=td/lambda=5.0"},
    }
