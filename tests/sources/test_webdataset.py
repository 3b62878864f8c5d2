import gzip

import numpy as np
import pytest

from side_ray.errors import UserError
from side_ray.sources.reading.files import open_files
from side_ray.sources.reading.pixels import Transform
from side_ray.sources.webdataset import WebDatasetSource
from tests.formats import encoded, everything, pictures, tar_of, webdataset


def tars(path, **options) -> WebDatasetSource:
    return WebDatasetSource(open_files(str(path), "data.path"), **options)


@pytest.mark.parametrize("kind", ["cls", "json"])
def test_round_trip(kind, tmp_path):
    images, labels = pictures(5), [4, 3, 2, 1, 0]
    (tmp_path / "shard-000000.tar").write_bytes(webdataset(images[:3], labels[:3], kind, prefix="data/"))
    (tmp_path / "shard-000001.tar.gz").write_bytes(gzip.compress(webdataset(images[3:], labels[3:], kind)))
    records = everything(tars(tmp_path))
    assert np.array_equal(np.stack([Transform()(record.content) for record in records]), images)
    assert [record.label for record in records] == list("43210")
    assert [record.name for record in records][2:4] == ["shard-000000.tar/data/000002", "shard-000001.tar.gz/000000"]
    assert {record.label for record in everything(tars(tmp_path, labels=False))} == {None}


def test_no_labels(tmp_path):
    (tmp_path / "a.tar").write_bytes(webdataset(pictures(2), None))
    source = tars(tmp_path / "a.tar")
    assert (source.labelled, source.count()) == (False, None)
    assert [record.label for record in everything(source)] == [None, None]


@pytest.mark.parametrize("cut", [lambda size: size // 2 + 100, lambda size: 512 * (size // 1024), lambda size: 700])
def test_a_truncated_archive_never_passes_for_a_short_one(cut, tmp_path):
    whole = webdataset(pictures(8), list(range(8)))
    (tmp_path / "a.tar").write_bytes(whole[: cut(len(whole))])
    records = everything(tars(tmp_path))
    assert len(records) < 9
    assert records[-1].name == "a.tar"
    assert "the archive is damaged after" in records[-1].error


def test_wrong_magic_and_empty_files(tmp_path):
    for content in (b"", b"PK\x03\x04" * 400, b"\x1f\x8b" + bytes(400)):
        (tmp_path / "a.tar").write_bytes(content)
        (record,) = everything(tars(tmp_path))
        assert "the archive is damaged after 0 samples" in record.error
    (tmp_path / "a.tar").unlink()
    with pytest.raises(UserError, match=r"there is no \.tar file"):
        everything(tars(tmp_path))


def test_samples_of_wrong_make_are_named(tmp_path):
    png = encoded(pictures(1)[0])
    files = {
        "0.png": png,
        "0.cls": b"1",
        "1.cls": b"2",
        "2.png": png,
        "2.jpg": png,
        "3.png": png,
        "3.json": b"{",
        "4.png": png,
    }
    (tmp_path / "a.tar").write_bytes(tar_of(files))
    records = everything(tars(tmp_path))
    assert [record.error.split(":")[0] for record in records] == [
        "",
        "the sample holds no image",
        "the sample holds 2 images (png, jpg)",
        "its .json is damaged",
        "",
    ]
    assert (records[0].label, records[-1].label) == ("1", None)


def test_keys_that_come_twice_are_refused(tmp_path):
    png = encoded(pictures(1)[0])
    (tmp_path / "a.tar").write_bytes(tar_of({"0.png": png, "1.png": png, "0.cls": b"1"}))
    with pytest.raises(UserError, match=r"a\.tar in .* holds 0 twice; write each sample once"):
        everything(tars(tmp_path))
    double = tar_of({"0.png": png})
    body = double[: 512 + -(-len(png) // 512) * 512]
    (tmp_path / "a.tar").write_bytes(body + body + bytes(1024))
    with pytest.raises(UserError, match=r"holds 0\.png twice; write each file once"):
        everything(tars(tmp_path))
