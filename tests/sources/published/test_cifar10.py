"""CIFAR-10 in its four published forms, and what may be wrong with each."""

import gzip
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from side_ray.errors import UserError
from side_ray.sources.published.cifar10 import CifarSource
from side_ray.sources.reading.files import open_files
from side_ray.sources.reading.pickles import Refused, load_batch
from tests.formats import everything, pictures, planes, tar_of, write_cifar, write_cifar_archive


def cifar(path: Path, role="all", labels=True) -> CifarSource:
    return CifarSource(open_files(str(path), "data.path"), role, labels)


@pytest.mark.parametrize("kind", ["python", "binary"])
@pytest.mark.parametrize("packed", [True, False])
def test_round_trip(kind, packed, tmp_path):
    path = tmp_path / "cifar-10.tar.gz" if packed else tmp_path / "batches"
    images, labels = (write_cifar_archive if packed else write_cifar)(path, kind)
    source = cifar(path)
    records = everything(source)
    assert np.array_equal(np.stack([record.content for record in records]), images)
    assert [record.label for record in records] == [str(label) for label in labels]
    assert records[0].name == "data_batch_1/0"
    assert source.count() == (24 if kind == "binary" else None)
    assert [record.name for record in everything(cifar(path, "unseen"))] == [f"test_batch/{n}" for n in range(4)]
    assert len(everything(cifar(path, "members"))) == 20
    assert {record.label for record in everything(cifar(path, labels=False))} == {None}


def test_todays_pickles_open_too(tmp_path):
    write_cifar(tmp_path, "python")
    images = pictures(3, seed=5)
    for protocol in range(2, 6):
        for data in (planes(images), np.asfortranarray(planes(images))):
            batch = {b"data": data, b"labels": [1, 2, 3]}
            (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, protocol))
            records = everything(cifar(tmp_path, "unseen"))
            assert np.array_equal(np.stack([record.content for record in records]), images)


class Hostile:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_pickles_are_refused_and_not_run(tmp_path, protocol):
    write_cifar(tmp_path / "cifar", "python")
    marker = tmp_path / "executed"
    calls = [
        Hostile(os.system, f"touch {marker}"),
        Hostile(eval, f"open({str(marker)!r}, 'w')"),
        Hostile(open, str(marker), "w"),
    ]
    for call in calls:
        for content in (call, {b"data": planes(pictures(1)), b"labels": [call]}):
            (tmp_path / "cifar" / "data_batch_2").write_bytes(pickle.dumps(content, protocol))
            with pytest.raises(
                UserError, match=r"data\.path: data_batch_2 in .* is not a batch of CIFAR-10: it names .*; get it again"
            ):
                everything(cifar(tmp_path / "cifar"))
    assert not marker.exists()


def test_arrays_of_objects_and_other_states_are_refused():
    for content in (np.array([{}], object), np.zeros(3), np.zeros((2, 2), np.int64)):
        with pytest.raises(Refused, match="array of"):
            load_batch(io.BytesIO(pickle.dumps({b"data": content}, 2)))
    for content in (b"", b"no pickle", pickle.dumps([1]), pickle.dumps({b"data": planes(pictures(1))}, 2)[:-40]):
        with pytest.raises(Refused):
            load_batch(io.BytesIO(content))


def remove(path):
    path.unlink()


def shorten(path):
    path.write_bytes(path.read_bytes()[:-100])


def relabel(path):
    path.write_bytes(b"\x0a" + path.read_bytes()[1:])


@pytest.mark.parametrize(
    ("kind", "name", "harm", "message"),
    [
        ("python", "data_batch_3", remove, "lacks CIFAR-10's data_batch_3; give cifar-10-python.tar.gz"),
        (
            "python",
            "data_batch_3",
            shorten,
            "data_batch_3 in .* is not a batch of CIFAR-10: it is damaged or not a pickle",
        ),
        ("binary", "data_batch_3.bin", shorten, "not a multiple of 3073: it is truncated"),
        ("binary", "test_batch.bin", relabel, "has the label 10, not 0 … 9"),
    ],
)
def test_damaged_directories(kind, name, harm, message, tmp_path):
    write_cifar(tmp_path, kind)
    harm(tmp_path / name)
    with pytest.raises(UserError, match=message):
        everything(cifar(tmp_path))


def test_damaged_archives(tmp_path):
    path = tmp_path / "cifar.tar.gz"
    write_cifar_archive(path, "binary")
    whole = path.read_bytes()
    flipped = bytearray(gzip.decompress(whole))
    flipped[5000] ^= 1
    wrong_checksum = gzip.compress(bytes(flipped))[:-8] + whole[-8:]
    cut_between_members = gzip.compress(gzip.decompress(whole)[: 512 + 12800])
    for content in (
        whole[:-2000],
        b"PK\x03\x04" + bytes(2000),
        b"",
        b"hello" * 200,
        wrong_checksum,
        cut_between_members,
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"is not a whole tar archive .*; get it again"):
            everything(cifar(path))


def test_another_archive_says_what_it_lacks(tmp_path):
    path = tmp_path / "other.tar.gz"
    path.write_bytes(gzip.compress(tar_of({"a/readme.txt": b"hi"})))
    with pytest.raises(UserError, match="lacks CIFAR-10's data_batch_1, data_batch_2"):
        cifar(path).count()


def test_two_versions_in_one_directory_are_refused(tmp_path):
    write_cifar(tmp_path / "py", "python")
    write_cifar(tmp_path / "bin", "binary")
    with pytest.raises(UserError, match="holds data_batch_1 twice"):
        cifar(tmp_path).count()
