"""Captions, from any source to the prepared images."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from side_ray.execution.audit import Audit
from side_ray.execution.progress import Reporter
from side_ray.runs.artifacts import Artifacts
from side_ray.stages.prepare import prepare
from tests.audits import tiny_config
from tests.formats import pictures, write_folder
from tests.local import without_ray

pytestmark = pytest.mark.long


def prepared(run: Path, images: Path) -> list[dict]:
    data = {"source": "folder", "path": str(images), "members": 4, "holdout": 1}
    audit = Audit(Artifacts.open(tiny_config(run, data=data)), Reporter())
    with without_ray():
        prepare(audit)
    parts = sorted((run / audit.artifacts.prepare.key).glob("part-*"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def test_the_prepared_images_have_their_captions(tmp_path):
    write_folder(tmp_path / "images", pictures(6, (8, 8)), classes=2)
    rows = [{"file_name": f"class-{n % 2}/{n:05d}.png", "text": f"picture {n} \ud800"} for n in range(5)]
    (tmp_path / "images" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = {row["image"]["path"]: row["caption"] for row in prepared(tmp_path / "run", tmp_path / "images")}
    assert found == {row["file_name"]: row["text"].replace("\ud800", "\\ud800") for row in rows} | {
        "class-1/00005.png": None
    }


def test_parts_of_an_interrupted_earlier_version_are_made_again(tmp_path):
    write_folder(tmp_path / "images", pictures(6, (8, 8)), classes=2)
    wanted = prepared(tmp_path / "run", tmp_path / "images")
    (root,) = (tmp_path / "run" / "prepare").iterdir()
    (part,) = root.glob("part-*")
    pq.write_table(pq.read_table(part).drop_columns("caption"), part)
    (root / "scan" / "images-000000.parquet").rename(root / "scan" / "scan-000000.parquet")
    for mark in ("_done.json", "_done_copy.json"):
        (root / mark).unlink()
    assert prepared(tmp_path / "run", tmp_path / "images") == wanted
    assert not list((root / "scan").glob("scan-*"))
