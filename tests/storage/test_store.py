"""What every store must do, asked of a local directory and of a real S3 server alike."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from side_ray.errors import UserError
from side_ray.storage import Entry, Store, open_store
from tests.s3 import SECRET_KEY


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.server)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store(str(tmp_path / "runs" / "one"))
    server = request.getfixturevalue("s3")
    return open_store(f"s3://{server.bucket}/{tmp_path.name}/runs/one")


def keys(store: Store, prefix: str = "") -> list[str]:
    return sorted(entry.key for entry in store.list(prefix))


def test_an_object_is_read_as_it_was_written_last(store: Store) -> None:
    store.write("a/b/c.bin", b"first")
    store.write("a/b/c.bin", bytes(range(256)))
    assert store.read("a/b/c.bin") == bytes(range(256))
    assert store.size("a/b/c.bin") == 256
    assert store.exists("a/b/c.bin")


def test_an_empty_object_is_an_object(store: Store) -> None:
    store.write("empty", b"")
    assert (store.size("empty"), store.read("empty"), store.open_input("empty").read()) == (0, b"", b"")


@pytest.mark.parametrize("key", ["nothing", "a", "a/b/c/d"])
def test_what_is_not_there_is_absent_and_a_directory_is_no_object(store: Store, key: str) -> None:
    store.write("a/b/c", b"x")
    assert store.size(key) is None
    assert not store.exists(key)
    for read in (store.read, store.open_input):
        with pytest.raises(FileNotFoundError, match=f"no {key} in"):
            read(key)


@pytest.mark.parametrize("key", ["", "/a", "a//b", "a/", "../a", "a/../b", ".", "a/./b", "a\0b"])
def test_a_key_that_names_no_object_is_refused(store: Store, key: str) -> None:
    for call in (store.read, store.size, store.open_input, lambda key: store.write(key, b"x")):
        with pytest.raises(ValueError, match="not a key"):
            call(key)


def test_a_listing_is_recursive_and_takes_prefixes_as_directories(store: Store) -> None:
    written = ["a", "b/1", "b-x", "b/2/deep/er", "b/10", "bb/1", "b.y", "é/1", "z z/+&=%20"]
    for key in written:
        store.write(key, key.encode())
    assert keys(store) == sorted(written)
    assert keys(store, "b") == keys(store, "b/") == ["b/1", "b/10", "b/2/deep/er"]
    assert keys(store, "a") == keys(store, "nothing") == []
    (entry,) = store.list("b/2")
    assert entry == Entry("b/2/deep/er", len("b/2/deep/er"), entry.mtime)
    assert store.read("z z/+&=%20") == b"z z/+&=%20"


def test_modification_times_are_those_of_the_clock(store: Store, tmp_path: Path) -> None:
    store.write("x", b"x")
    (tmp_path / "reference").write_bytes(b"")
    assert next(store.list()).mtime == pytest.approx((tmp_path / "reference").stat().st_mtime, abs=5)


def test_delete_takes_the_object_and_what_is_below_and_nothing_beside(store: Store) -> None:
    for key in ("d/1", "d/e/2", "dd/3", "single", "single2"):
        store.write(key, b"x")
    store.delete("d/")
    store.delete("single")
    store.delete("was/never/there")
    assert keys(store) == ["dd/3", "single2"]
    for prefix in ("", "/", ".."):
        with pytest.raises(ValueError, match="not a key"):
            store.delete(prefix)


def test_of_many_conditional_writers_exactly_one_wins_and_its_object_stays(store: Store) -> None:
    start = threading.Barrier(8)

    def attempt(writer: int) -> bool:
        start.wait()
        return store.write_if_absent("lock", f"writer {writer}".encode())

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(attempt, range(8)))
    assert won.count(True) == 1
    assert store.read("lock") == f"writer {won.index(True)}".encode()
    assert not store.write_if_absent("lock", b"late")
    assert keys(store) == ["lock"]


def test_readers_never_see_a_part_or_a_mixture_of_what_concurrent_writers_put(store: Store) -> None:
    """Each payload is one byte value repeated, so that any tear shows; lengths differ, so that any cut shows."""
    payloads = [bytes([value]) * (200_000 + 1_000 * value) for value in range(6)]
    store.write("contended", payloads[0])
    writing = threading.Event()
    writing.set()

    def write(payload: bytes) -> None:
        for _ in range(8):
            store.write("contended", payload)

    def read() -> set[bytes]:
        seen = set()
        while writing.is_set():
            seen.add(store.read("contended"))
        return seen

    with ThreadPoolExecutor(9) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        list(pool.map(write, payloads))
        writing.clear()
        seen = set().union(*(reader.result() for reader in readers))
    assert seen <= set(payloads)
    assert len(seen) > 1
    assert keys(store) == ["contended"]


def test_parquet_is_read_by_row_group(store: Store, tmp_path: Path) -> None:
    table = pa.table({"id": range(3_000), "image": [bytes([i % 256]) * 50 for i in range(3_000)]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=1_000)
    store.put_file(tmp_path / "t.parquet", "t.parquet")
    file = pq.ParquetFile(store.open_input("t.parquet"))
    assert file.num_row_groups == 3
    assert file.read_row_group(1) == table.slice(1_000, 1_000)
    assert file.read() == table


def test_random_access(store: Store) -> None:
    data = bytes(range(200))
    store.write("x", data)
    with store.open_input("x") as file:
        assert file.size() == 200
        assert file.read_at(10, 150) == data[150:160]
        file.seek(190)
        assert file.read(100) == data[190:]
        assert file.read(1) == b""


def tree(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_a_directory_comes_back_as_it_was_put(store: Store, tmp_path: Path) -> None:
    local = tmp_path / "model"
    files = {
        "config.json": b"{}",
        "unet/weights.safetensors": bytes(range(256)) * 1_000,
        "unet/a/b": b"",
        ".hidden": b"h",
    }
    for name, content in files.items():
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_bytes(content)
    store.put_dir(local, "dpm/ab12")
    assert tree(store.fetch_dir("dpm/ab12")) == tree(store.fetch_dir("dpm/ab12/")) == files
    assert tree(store.fetch_dir("dpm/ab12/unet")) == {
        "weights.safetensors": files["unet/weights.safetensors"],
        "a/b": b"",
    }
    store.put_dir(store.fetch_dir("dpm/ab12"), "dpm/ab12")
    assert tree(store.fetch_dir("dpm/ab12")) == files
    store.put_dir(local / "unet", "")
    assert store.read("weights.safetensors") == files["unet/weights.safetensors"]


def test_a_directory_that_is_not_there_is_said_to_be_missing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing below no/where"):
        store.fetch_dir("no/where")
    with pytest.raises(FileNotFoundError):
        store.put_dir(tmp_path / "nothing", "x")
    with pytest.raises(FileNotFoundError):
        store.put_file(tmp_path / "nothing", "x")
    assert keys(store) == []


def test_a_used_store_is_pickled_without_what_belongs_to_its_process(store: Store) -> None:
    store.write("x", b"x")
    pickled = pickle.dumps(store)
    again = pickle.loads(pickled)
    assert again.uri == store.uri
    assert again.read("x") == b"x"
    assert SECRET_KEY.encode() not in pickled
    assert SECRET_KEY not in repr(store)
    assert store.uri in repr(store)


def test_a_check_leaves_nothing(store: Store, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    store.check()
    assert sorted(tmp_path.rglob("*")) == before
    assert keys(store) == []
    assert store.sweep(older_than=-1) == 0


def test_the_arrow_file_system_is_rooted_at_the_store(store: Store) -> None:
    system, root = store.arrow()
    system.create_dir(f"{root}/train")
    with system.open_output_stream(f"{root}/train/checkpoint.bin") as stream:
        stream.write(b"weights")
    assert store.read("train/checkpoint.bin") == b"weights"
    assert keys(store) == ["train/checkpoint.bin"]
    assert pickle.loads(pickle.dumps(system)).get_file_info(f"{root}/train/checkpoint.bin").size == 7
    assert SECRET_KEY.encode() not in pickle.dumps(system)


@pytest.mark.parametrize(
    ("uri", "options", "says"),
    [
        ("", {}, "run.uri: is empty"),
        ("gs://bucket/x", {}, "run.uri: gs://bucket/x is not supported"),
        ("s3://", {}, "is not of the form s3://bucket/prefix"),
        ("s3:///prefix", {}, "is not of the form s3://bucket/prefix"),
        ("s3://b/x", {"endpoint": "localhost:8333"}, "storage.endpoint: 'localhost:8333' is not the URL"),
        ("s3://b/x", {"endpoint": "http://"}, "is not the URL"),
        ("s3://b/x", {"endpoint": "http://key:hunter2@host"}, "holds credentials"),
        ("s3://b/x", {"endpoint": "key:hunter2@host"}, "holds credentials"),
        ("s3://key:hunter2@b/x", {}, "holds credentials"),
        ("s3://key:hun/hunter2@b/x", {}, "holds credentials"),
        ("https://h/x?X-Amz-Signature=hunter2", {}, "holds credentials"),
        ("s3://b/a/../c", {}, "s3://b/a/../c is not of the form"),
    ],
)
def test_an_address_of_no_known_kind_is_the_users_mistake(uri: str, options: dict[str, str], says: str) -> None:
    with pytest.raises(UserError) as caught:
        open_store(uri, **options)
    assert caught.value.exit_code == 2
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "uri"),
    [
        ("s3://b", "s3://b"),
        ("s3://b/", "s3://b"),
        ("s3://b/p/q/", "s3://b/p/q"),
        ("file:///x/y", "/x/y"),
        ("/x/y/", "/x/y"),
    ],
)
def test_a_uri_has_one_form(given: str, uri: str) -> None:
    assert open_store(given).uri == uri


def test_a_local_uri_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("runs/digits").uri == str(tmp_path / "runs/digits")
