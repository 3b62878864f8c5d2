"""The interface of a store: objects under "/"-separated keys, each written atomically."""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs

# A hidden name that no artifact uses, so that listings can exclude the files of killed writers.
TEMPORARY = re.compile(r"^\..+\.[0-9a-f]{32}\.tmp$")


class Entry(NamedTuple):
    """One object of a listing: its key relative to the store, its size in bytes, its modification time in seconds
    since the epoch."""

    key: str
    size: int
    mtime: float


def is_key(key: str) -> bool:
    """Whether `key` can name an object of a store: relative, not empty, and not outside of it."""
    return not any(part in ("", ".", "..") for part in key.split("/")) and "\0" not in key


def checked_key(key: str) -> str:
    """`key` itself; ValueError unless it can name an object."""
    if not is_key(key):
        raise ValueError(f"not a key of an object in a store: {key!r}")
    return key


def checked_prefix(prefix: str) -> str:
    """`prefix` as a directory without its trailing slash, "" being the whole store; ValueError as in `checked_key`."""
    prefix = prefix.removesuffix("/")
    return checked_key(prefix) if prefix else ""


class Store(ABC):
    """A run directory: a local path or `s3://bucket/prefix`.

    Keys are relative, "/"-separated strings. Prefixes name directories: `a/b` holds `a/b/c` but not `a/bc`; "" is the
    whole store. Stores are picklable and may be shared by threads; connections are made when first needed in a process.

    Attributes:
        uri: the absolute local path, or `s3://bucket/prefix` without a trailing slash.

    Every method raises `RunError` (one line: what, where, what to do) when the storage itself fails.
    """

    uri: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uri!r})"

    @property
    def retries(self) -> int:
        """How many requests this process has repeated after transient failures."""
        return 0

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The object's content. Raises FileNotFoundError where there is none."""

    @abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """Put the object atomically: a reader sees the old object, the new one, or none, never a part."""

    @abstractmethod
    def write_if_absent(self, key: str, data: bytes) -> bool:
        """Put the object unless one exists; of several writers exactly one gets True.

        Writers that must know who won should write unique content (an id), because a put whose response was lost is recognized
        by its content.
        """

    @abstractmethod
    def size(self, key: str) -> int | None:
        """The object's size in bytes, or None where there is none."""

    def exists(self, key: str) -> bool:
        """Whether the object exists. A directory is not an object."""
        return self.size(key) is not None

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object below the directory `prefix`, at any depth, in any order, without temporary files."""

    def list_all(self) -> Iterator[Entry]:
        """Every object of the store, also those that cannot be read: links to nothing have size -1, and objects in S3 may have
        names that are no keys here. A directory that links lead back to is listed once."""
        return self.list()

    @abstractmethod
    def delete(self, prefix: str) -> None:
        """Remove the object of that key and everything below it, if they exist. Raises ValueError for the whole store ("")."""

    @abstractmethod
    def open_input(self, key: str) -> pa.NativeFile:
        """The object opened for random-access reading, for example for `pyarrow.parquet.ParquetFile`. Raises
        FileNotFoundError where there is none."""

    @abstractmethod
    def versions(self, keys: Sequence[str]) -> Iterator[str]:
        """For each object, in order, a string that changes with its content: its SHA-256, or the ETag that S3 gives it; "" for
        an object that does not exist or cannot be read.

        Local files are read once: their digests are kept (`digests`) as long as size, times and inode stay.
        """

    @abstractmethod
    def fetch_dir(self, prefix: str, fresh: bool = False, only: Collection[str] | None = None) -> Path:
        """A local directory with everything below `prefix`, or at least with the files whose paths relative to it are in `only`.
        It must not be modified. Raises FileNotFoundError if there is nothing below it.

        A local store returns its own directory. S3 objects are downloaded to $SIDE_RAY_CACHE (by default ~/.cache/side-ray), once
        per machine and atomically; with `fresh`, again.
        """

    @abstractmethod
    def put_file(self, local: Path, key: str) -> None:
        """Copy a local file of any size to `key`, as atomically as `write`."""

    def put_dir(self, local: Path, prefix: str, without: Collection[str] = ()) -> None:
        """Copy every file below the directory `local` to the same relative key below `prefix`, one after the other, except those
        whose relative path is in `without`.

        Each file is put atomically, the directory is not: write a marker after it. Raises
        FileNotFoundError if `local` is no directory.
        """
        if not local.is_dir():
            raise FileNotFoundError(f"no directory {local}")
        for path in sorted(local.rglob("*")):
            if path.is_file() and not TEMPORARY.match(path.name):
                relative = path.relative_to(local).as_posix()
                if relative not in without:
                    self.put_file(path, f"{checked_prefix(prefix)}/{relative}".removeprefix("/"))

    @abstractmethod
    def arrow(self) -> tuple[pafs.FileSystem, str]:
        """A pyarrow file system and the store's root in it, for Ray Train's `RunConfig(storage_filesystem=…,
        storage_path=…)`. Requests through it are not counted in `retries`, and not all of them are retried."""

    @abstractmethod
    def sweep(self, older_than: float) -> int:
        """Remove temporary files and unfinished multipart uploads of killed writers that are older than `older_than` seconds.
        Returns how many were removed."""

    @abstractmethod
    def check(self) -> None:
        """Test, within seconds and without leaving files, whether the store can be read and written. Raises
        RunError if it cannot."""
