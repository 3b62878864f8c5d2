"""What a local directory can do to a run: killed writers, and disks and directories that cannot be written."""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from side_ray.errors import RunError
from side_ray.storage import Store, open_store

NOBODY = 65534


@pytest.fixture
def killed_writer(tmp_path: Path) -> Path:
    """A store in which a process was killed in the middle of writing the object `shard`."""
    root, pipe = tmp_path / "run", tmp_path / "pipe"
    os.mkfifo(pipe)
    code = "import sys; from pathlib import Path; from side_ray.storage import open_store\n"
    code += "open_store(sys.argv[1]).put_file(Path(sys.argv[2]), 'd/shard')"
    process = subprocess.Popen([sys.executable, "-c", code, str(root), str(pipe)])
    with pipe.open("wb", buffering=0) as stream:
        stream.write(b"x" * (3 << 20))
        while not any(path.stat().st_size for path in root.rglob("*") if path.is_file()):
            time.sleep(0.01)
        process.kill()
        process.wait()
    return root


def test_a_killed_writer_leaves_no_object_and_its_traces_are_swept(killed_writer: Path) -> None:
    store = open_store(str(killed_writer))
    assert sum(path.is_file() for path in killed_writer.rglob("*")) == 1
    assert list(store.list()) == []
    assert not store.exists("d/shard")
    store.write("d/.hidden", b"not a temporary file")
    assert store.sweep(older_than=3_600) == 0
    assert store.sweep(older_than=0) == 1
    assert [path.name for path in killed_writer.rglob("*") if path.is_file()] == [".hidden"]
    assert [entry.key for entry in store.list()] == ["d/.hidden"]


def test_temporary_files_are_not_put_with_a_directory(killed_writer: Path, tmp_path: Path) -> None:
    (killed_writer / "d" / "real").write_bytes(b"x")
    copy = open_store(str(tmp_path / "copy"))
    copy.put_dir(killed_writer, "c")
    assert [path.name for path in (tmp_path / "copy").rglob("*") if path.is_file()] == ["real"]


def said(action: Callable[[], object]) -> str:
    """The one line that `action` fails with."""
    with pytest.raises(RunError) as caught:
        action()
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    return str(caught.value)


def refuses_writes(store: Store, reason: str) -> None:
    """Every way of writing to the store is refused for that reason, in one line with the path in it."""
    for action in (
        store.check,
        lambda: store.write("a/b", b"x" * 9_999),
        lambda: store.write_if_absent("a/b", b"x" * 9_999),
    ):
        line = said(action)
        assert reason in line
        assert store.uri in line


def test_a_file_in_place_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    refuses_writes(open_store(str(tmp_path / "file" / "run")), "a part of this path is a file")
    store = open_store(str(tmp_path))
    assert "a part of this path is a file" in said(lambda: store.write("file/x", b"x"))
    assert store.size("file/x") is None


def test_a_directory_in_place_of_a_file(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.write("d/x", b"x")
    assert "a directory has this name" in said(lambda: store.write("d", b"x"))
    assert "a directory has this name" in said(lambda: store.write_if_absent("d", b"x"))
    assert [path.name for path in tmp_path.rglob("*")] == ["d", "x"]


def test_a_place_where_no_directory_can_be_made() -> None:
    refuses_writes(open_store("/proc/side-ray"), "choose a run.uri in which directories can be created")


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user whom permissions bind, which they do not root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_directory_without_permissions() -> None:
    with tempfile.TemporaryDirectory() as name:
        open_store(name).write("x", b"secret")
        os.chmod(Path(name, "x"), 0)
        os.chmod(name, 0o555)
        store = open_store(name)
        with unprivileged():
            refuses_writes(store, "Permission denied; choose a run.uri that you may read and write")
            assert "cannot read" in said(lambda: store.read("x"))
            assert "cannot read" in said(lambda: store.open_input("x"))
            assert "cannot delete" in said(lambda: store.delete("x"))
        os.chmod(name, 0o111)
        with unprivileged():
            assert "cannot list" in said(lambda: list(store.list()))
        os.chmod(name, 0o755)


@contextmanager
def mounted(options: str) -> Iterator[Path]:
    """A small file system of its own, where the machine allows one."""
    directory = tempfile.mkdtemp()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run([mount, "-t", "tmpfs", "-o", options, "tmpfs", directory], capture_output=True).returncode
    ):
        os.rmdir(directory)
        pytest.skip("nothing can be mounted here")
    try:
        yield Path(directory)
    finally:
        subprocess.run(["umount", directory], check=True)
        os.rmdir(directory)


def test_a_full_disk_keeps_the_old_object_and_no_trace_of_the_new() -> None:
    with mounted("size=64k") as disk:
        store = open_store(str(disk / "run"))
        store.write("x", b"old")
        assert "No space left on device; free some space" in said(lambda: store.write("x", b"n" * 100_000))
        assert store.read("x") == b"old"
        assert [path.name for path in disk.rglob("*")] == ["run", "x"]
        store.write("y", b"y" * 20_000)


def test_a_read_only_file_system_can_be_read() -> None:
    with mounted("size=64k") as disk:
        store = open_store(str(disk))
        store.write("x", b"x")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        refuses_writes(store, "Read-only file system; choose a run.uri on a file system that is not read-only")
        assert store.read("x") == b"x"


def test_a_limit_on_file_sizes_keeps_the_old_object_and_no_trace_of_the_new(tmp_path: Path) -> None:
    """What a full disk does, where nothing can be mounted: the write fails half-way."""
    store = open_store(str(tmp_path / "run"))
    store.write("x", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, hard))
    try:
        assert "File too large" in said(lambda: store.write("x", b"n" * 100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.read("x") == b"old"
    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["x"]


def test_without_hard_links_one_conditional_writer_still_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    store = open_store(str(tmp_path))
    assert store.write_if_absent("lock", b"first")
    assert not store.write_if_absent("lock", b"second")
    assert store.read("lock") == b"first"


def test_deleting_a_link_keeps_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x").write_bytes(b"x")
    store = open_store(str(tmp_path / "run"))
    store.write("y", b"y")
    (tmp_path / "run" / "linked").symlink_to(tmp_path / "elsewhere")
    assert [entry.key for entry in store.list()] == ["linked/x", "y"]
    store.delete("linked")
    assert (tmp_path / "elsewhere" / "x").read_bytes() == b"x"


def test_a_writer_is_not_disturbed_by_the_check_of_another_run(tmp_path: Path) -> None:
    """The check takes away the empty directories it made, which may be those a writer is about to write into."""
    for turn in range(20):
        store = open_store(str(tmp_path / f"{turn}" / "a" / "b"))
        with ThreadPoolExecutor(4) as pool:
            for outcome in [pool.submit(store.check), pool.submit(store.write, "x", b"x"), pool.submit(store.check)]:
                outcome.result()
        assert store.read("x") == b"x"
