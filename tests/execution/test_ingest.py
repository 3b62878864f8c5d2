"""Scanning one unit of a source, without Ray."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from side_ray.execution.ingest.passes import UNITS, IngestSpec, Scan, scan_key
from side_ray.runs.run import Artifact
from side_ray.sources.reading.pixels import Transform
from side_ray.storage import open_store
from tests.formats import encoded, pictures, pools, tar_of, write_parquet


def scanned(path: Path, source: str, run: Path, **options) -> dict[str, dict[str, object]]:
    """The result of scanning each image of the first unit, by name."""
    opened = pools(source, path, **options)
    artifact = Artifact(open_store(str(run)), "prepare/x")
    units = [json.dumps(unit) for unit in opened[0].units()]
    table = pa.table({"unit": range(len(units)), "pool": [0] * len(units), "content": units})
    spec = IngestSpec(artifact, opened, Transform(), None, len(units))
    spec.write(UNITS, table)
    Scan(spec).make(0)
    rows = pq.read_table(io.BytesIO(artifact.store.read(f"{artifact.key}/{scan_key(0)}"))).to_pylist()
    return {row["name"]: row for row in rows}


def test_an_image_without_label_among_labelled_ones_is_named(tmp_path):
    png = encoded(pictures(1)[0])
    archive = {"0.png": png, "0.cls": b"1", "1.png": png, "2.png": png, "2.cls": b"0"}
    (tmp_path / "a.tar").write_bytes(tar_of(archive))
    found = scanned(tmp_path / "a.tar", "webdataset", tmp_path / "run")
    assert {name: row["error"] for name, row in found.items()} == {
        "a.tar/0": None,
        "a.tar/1": "has no label",
        "a.tar/2": None,
    }
    write_parquet(tmp_path / "b.parquet", pictures(3), [1, None, 2])
    errors = [row["error"] for row in scanned(tmp_path / "b.parquet", "parquet", tmp_path / "other").values()]
    assert errors == [None, "has no label", None]


@pytest.mark.parametrize("kind", ["sixteen bits", "CMYK"])
def test_sixteen_bit_and_cmyk_images_are_taken_as_eight_bit_rgb(kind, tmp_path):
    pixels = pictures(1)[0]
    buffer = io.BytesIO()
    if kind == "CMYK":
        Image.fromarray(pixels).convert("CMYK").save(buffer, "TIFF")
    else:
        Image.fromarray((pixels[:, :, 0].astype(np.uint16) * 257).astype(np.uint16)).save(buffer, "PNG")
        pixels = pixels[:, :, :1].repeat(3, 2)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "odd.tif").write_bytes(buffer.getvalue())
    (tmp_path / "images" / "plain.png").write_bytes(encoded(pixels))
    found = scanned(tmp_path / "images", "folder", tmp_path / "run")
    assert found["odd.tif"]["error"] is None
    assert found["odd.tif"]["digest"] == found["plain.png"]["digest"]


def test_a_broken_image_is_reported_and_the_others_are_read(tmp_path):
    (tmp_path / "images").mkdir()
    whole = encoded(pictures(1)[0])
    contents = {"a.png": whole, "b.png": whole[:200], "c.png": b"GARBAGE" + whole[7:], "d.png": b""}
    for name, content in contents.items():
        (tmp_path / "images" / name).write_bytes(content)
    found = scanned(tmp_path / "images", "folder", tmp_path / "run")
    assert found["a.png"]["error"] is None
    assert str(found["b.png"]["error"]).startswith("damaged")
    assert {found[name]["error"] for name in ("c.png", "d.png")} == {"not an image of a known format"}
