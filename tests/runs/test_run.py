import json

import pytest

from side_ray.errors import Damaged
from side_ray.runs.run import DONE, DONE_COPY, Artifact, Run, fingerprint
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


def whole(artifact):
    artifact.write("weights.bin", b"123")
    artifact.write_json("facts.json", {"a": 1})
    artifact.finish(rows=3)
    return artifact


def test_what_finish_lists_has_to_be_there(run):
    artifact = whole(run.artifact("dpm", 1))
    artifact.check(content=True)
    run.store.write(f"{artifact.key}/weights.bin", b"124")
    assert artifact.done
    for check in (lambda: artifact.check(content=True), artifact.fetch, artifact.digests):
        with pytest.raises(Damaged, match=r"weights.bin is missing or damaged") as caught:
            check()
        assert f"{artifact.key}/_done.json" in caught.value.doomed
    run.store.delete(f"{artifact.key}/weights.bin")
    assert not artifact.done


def test_a_part_that_is_missing_is_noticed(run):
    artifact = run.artifact("prepare", 1)
    run.store.write(f"{artifact.key}/part-000000.parquet", b"")
    artifact.finish(parts=2)
    with pytest.raises(Damaged, match=r"part-000001.parquet is missing"):
        artifact.check()


@pytest.mark.parametrize("content", [b"", b"{}x", b"\xff\x00", b'{"rows": 4, "files": {}}'])
def test_a_damaged_mark_is_restored_from_its_copy(run, content):
    artifact = whole(run.artifact("dpm", 1))
    run.store.write(f"{artifact.key}/_done.json", content)
    assert artifact.done
    assert artifact.info() == {"rows": 3}
    assert "is restored from its copy" in artifact.adopt()
    assert artifact.adopt() == ""
    run.store.delete(f"{artifact.key}/_done.json")
    assert "is restored from its copy" in artifact.adopt()
    run.store.write(f"{artifact.key}/_done.json", content)
    run.store.write(f"{artifact.key}/_done_copy.json", content)
    with pytest.raises(Damaged):
        artifact.check()


def test_the_mark_of_another_artifact_is_no_mark(run):
    artifact, other = whole(run.artifact("dpm", 1)), run.artifact("dpm", 2)
    for name in ("_done.json", "_done_copy.json"):
        run.store.write(f"{other.key}/{name}", run.store.read(f"{artifact.key}/{name}"))
    assert not other.done


def test_an_artifact_of_an_earlier_version_is_accepted_once(run):
    artifact = run.artifact("dpm", 1)
    run.store.write(f"{artifact.key}/unet/weights.bin", b"123")
    run.store.write(f"{artifact.key}/_done.json", b'{"rows": 3}')
    assert artifact.done
    assert "is of an earlier version, without digests" in artifact.adopt()
    again = run.artifact("dpm", 1)
    assert again.adopt() == ""
    assert again.info() == {"rows": 3}
    run.store.write(f"{artifact.key}/unet/weights.bin", b"124")
    with pytest.raises(Damaged):
        again.check(content=True)


def test_damaged_pointers_are_made_anew(run):
    for content in (b"", b"[1]", b"\xff", b'{"a": '):
        run.store.write("latest.json", content)
        run.point_latest(prepare="prepare/a")
        assert run.latest() == {"prepare": "prepare/a"}


def test_the_marks_of_another_artifact_are_not_copied(tmp_path):
    store = open_store(str(tmp_path / "run"))
    (tmp_path / "model").mkdir()
    for name in (DONE, DONE_COPY, "model.json"):
        (tmp_path / "model" / name).write_text('{"kind": "of another run"}')
    artifact = Artifact(store, "dpm/ab12")
    artifact.put_dir(tmp_path / "model")
    assert not artifact.done
    artifact.finish(kind="import")
    artifact.check(content=True)
    assert artifact.info() == {"kind": "import"}
