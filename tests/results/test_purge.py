"""Purging removes every image of a run and none of its numbers."""

import json

import pytest

import side_ray
from side_ray.errors import UserError
from side_ray.results.purge import private, purge
from side_ray.runs.status import purged_at, rows
from side_ray.storage import open_store

PNG = b"\x89PNG"


def test_no_image_and_every_number_is_left(copied, artifacts):
    store = open_store(str(copied))
    log = copied / artifacts.dpm.key / "tensorboard" / "events.out"
    log.parent.mkdir()
    log.write_bytes(PNG)
    (copied / "report.pdf").write_bytes(PNG)
    sheets = copied / artifacts.report.key / "pairs"
    sheets.mkdir()
    (sheets / "000.png").write_bytes(PNG)
    kept = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file() and path.parent.name == "figures"}
    before = side_ray.open_run(copied)
    numbers, extracted = before.metrics, before.extracted
    pages = purge(store)
    assert pages == [f"{artifacts.report.key}/index.html", "report.html"]
    for path in copied.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert PNG not in content, path
            assert b"data:image/" not in content, path
    assert not list(copied.rglob("images.safetensors"))
    assert not list(sheets.glob("*"))
    assert "image removed" in (copied / "report.html").read_text()
    assert 'id="pairs-data">null</script>' in (copied / "report.html").read_text()
    assert before.headline in (copied / "report.html").read_text()

    run = side_ray.open_run(copied)
    assert run.metrics == numbers
    assert run.extracted.equals(extracted)
    assert len(run.matches("td")) == run.metrics["conditions"][1]["calibrated"]["ams_count"]
    assert {path: path.read_bytes() for path in kept} == kept
    for question in (lambda: run.pair("td/2/3"), lambda: run.remake("td", 2, 3)):
        with pytest.raises(UserError, match="are no longer there; run side-ray audit again"):
            question()
    assert purged_at(store).startswith("20")
    assert {row.stage: row.done for row in rows(store, "run")}["prepare"] == 0
    assert private(store) == []


def test_purging_again_does_what_is_left(copied):
    store = open_store(str(copied))
    found = private(store)
    for entry in found[:5]:
        store.delete(entry.key)
    purge(store)
    assert private(store) == []
    assert json.loads((copied / "purged.json").read_text())["files"] == len(found) - 5


def test_only_a_run_is_purged(tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "mine.png").write_bytes(PNG)
    with pytest.raises(UserError, match="holds no run"):
        private(open_store(str(tmp_path)))
    assert (tmp_path / "samples" / "mine.png").exists()
