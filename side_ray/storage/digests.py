"""SHA-256 of many local files, each read once: digests are kept as long as a file's size, times and inode stay the same."""

import fcntl
import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from side_ray.storage.cache import cache_root

READERS = 8
SETTLED_NS = 2 * 10**9
"""A file that was changed within this time before it was read may change again with the same time stamp."""

Stamp = tuple[int, int, int, int]
"""Size, modification time, time of the last change of the inode (both ns), and inode."""


def file_digest(path: Path) -> str:
    """SHA-256 of one file of any size, as of `file_digests`. Of the processes of a machine that ask for it at the same time one
    reads the file, and the others wait for it."""
    root = path.absolute().parent
    with ExitStack() as stack:
        with suppress(OSError):  # a cache that cannot be written costs time only
            lock = _kept(root).with_suffix(".lock")
            lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(lock.open("w")), fcntl.LOCK_EX)
        return file_digests(root, [path.name])[0]


def _kept(root: Path) -> Path:
    return cache_root() / "digests" / f"{hashlib.sha256(str(root).encode()).hexdigest()[:32]}.parquet"


def file_digests(root: Path, names: Sequence[str]) -> list[str]:
    """SHA-256, as hex digits, of each of the files `names` below `root`, in order; "" for one that cannot be read."""
    kept = _kept(root)
    known = _read(kept)

    def of(name: str) -> tuple[Stamp, bytes, bool]:
        path = root / name
        try:
            stamp = _stamp(path)
            if name in known and known[name][0] == stamp:
                return *known[name], True
            with path.open("rb") as file:
                return stamp, hashlib.file_digest(file, "sha256").digest(), False
        except OSError:
            return (0, 0, 0, 0), b"", True

    with ThreadPoolExecutor(READERS) as readers:
        began = time.time_ns()
        found = dict(zip(names, readers.map(of, names), strict=True))
    settled = {name: each[:2] for name, each in found.items() if each[1] and max(each[0][1:3]) < began - SETTLED_NS}
    if any(not found[name][2] for name in settled):
        with suppress(OSError, ValueError, pa.ArrowException):  # names may be no Unicode
            _write(kept, known | settled)
    return [digest.hex() for _, digest, _ in found.values()]


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _read(path: Path) -> dict[str, tuple[Stamp, bytes]]:
    try:
        columns = pq.read_table(path, memory_map=False, page_checksum_verification=True).to_pydict()
        stamps = zip(*(columns[name] for name in ("size", "mtime", "ctime", "inode")), strict=True)
        return dict(zip(columns["name"], zip(stamps, columns["digest"], strict=True), strict=True))
    except (OSError, pa.ArrowException, ValueError, KeyError):
        return {}


def _write(path: Path, known: dict[str, tuple[Stamp, bytes]]) -> None:
    columns = {
        name: [stamp[i] for stamp, _ in known.values()] for i, name in enumerate(("size", "mtime", "ctime", "inode"))
    }
    table = pa.table({"name": list(known), **columns, "digest": [digest for _, digest in known.values()]})
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, draft, write_page_checksum=True)
    draft.replace(path)
