"""What stands for the content of files changes with it, and files are read again only if they may have changed."""

import os
import time

import numpy as np
import pytest

from side_ray.sources.reading import files as reading
from side_ray.sources.reading.files import earlier_identity, open_files
from side_ray.storage import digests, open_store
from side_ray.storage.cache import cached_dir

OLD = time.time() - 60


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SIDE_RAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def images(tmp_path):
    directory = tmp_path / "images"
    directory.mkdir()
    for number in range(200):
        (directory / f"{number:04d}.bmp").write_bytes(b"%04d" % number * 20)
    return directory


def replaced(directory, number: int, *, keep_times: bool = False) -> None:
    path = directory / f"{number:04d}.bmp"
    before = path.stat()
    path.write_bytes(b"copy" * 20)
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("number", range(0, 200, 23))
def test_one_of_many_equally_large_files_counts(images, number):
    before = open_files(str(images), "data.path").identity()
    replaced(images, number)
    assert open_files(str(images), "data.path").identity() != before


def test_the_earlier_identity_is_kept_in_it_and_few_files_have_no_other(images, tmp_path):
    identity = open_files(str(images), "data.path").identity()
    assert identity.startswith(f"{earlier_identity(identity)}+")
    assert earlier_identity(f"members/{identity}/x") == f"members/{identity.partition('+')[0]}/x"
    few = tmp_path / "few"
    few.mkdir()
    (few / "a.png").write_bytes(b"x")
    small = open_files(str(few), "data.path").identity()
    assert earlier_identity(small) == small


def test_the_middle_of_a_large_file_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(reading, "EDGE_BYTES", 100)
    path = tmp_path / "images.tar"
    data = np.random.default_rng(0).integers(0, 256, 5000, np.uint8)
    path.write_bytes(data.tobytes())
    before = open_files(str(path), "data.path").identity()
    data[1500] ^= 1
    path.write_bytes(data.tobytes())
    assert open_files(str(path), "data.path").identity() != before


def test_unchanged_files_are_not_read_again(images, monkeypatch):
    for path in images.iterdir():
        os.utime(path, (OLD, OLD))
    monkeypatch.setattr(digests, "SETTLED_NS", -(10**12))
    names = sorted(path.name for path in images.iterdir())
    first = digests.file_digests(images, names)
    with monkeypatch.context() as patch:
        patch.setattr(digests.hashlib, "file_digest", None)
        assert digests.file_digests(images, names) == first
    replaced(images, 7, keep_times=True)  # the same size and modification time
    again = digests.file_digests(images, names)
    assert [number for number in range(200) if again[number] != first[number]] == [7]


def test_a_file_that_was_just_written_is_not_trusted(images, cache):
    digests.file_digests(images, ["0001.bmp"])
    assert not list(cache.rglob("*.parquet"))


def test_a_damaged_store_of_digests_is_made_again(images, cache, monkeypatch):
    monkeypatch.setattr(digests, "SETTLED_NS", -(10**12))
    right = digests.file_digests(images, ["0001.bmp"])
    (kept,) = cache.rglob("*.parquet")
    for content in (b"", b"PAR1", b"\x00" * 300):
        kept.write_bytes(content)
        assert digests.file_digests(images, ["0001.bmp"]) == right


def test_a_file_that_cannot_be_read_has_no_version(images):
    (images / "link.bmp").symlink_to("nowhere")
    assert [bool(each) for each in open_store(str(images)).versions(["0001.bmp", "none.bmp", "link.bmp"])] == [1, 0, 0]


def test_names_that_are_no_unicode_count(images):
    odd = os.fsencode(images) + b"/\xff.bmp"
    with open(odd, "wb") as file:
        file.write(b"one")
    before = open_files(str(images), "data.path").identity()
    with open(odd, "wb") as file:
        file.write(b"two")
    assert open_files(str(images), "data.path").identity() != before


def test_the_download_cache_keeps_what_was_used_last(cache):
    def download(size):
        return lambda directory: (directory / "weights").write_bytes(b"x" * size)

    old, used, new = (cached_dir(name, download(400), 1500) for name in ("old", "used", "new"))
    os.utime(old, (OLD - 7200, OLD - 7200))
    os.utime(used, (OLD - 7200, OLD - 7200))
    assert cached_dir("used", download(400), 1500) == used
    newest = cached_dir("newest", download(400), 1500)
    assert [path.is_dir() for path in (old, used, new, newest)] == [False, True, True, True]
    # What was asked for a moment ago stays, even if it is too much.
    assert cached_dir("huge", download(5000), 1500).is_dir()
    assert used.is_dir()
    fresh = cached_dir("used", download(10), 1500, fresh=True)
    assert (fresh / "weights").stat().st_size == 10
