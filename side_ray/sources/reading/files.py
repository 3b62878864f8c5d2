"""The files at a data path: on a local disk or in object storage, plain or in a zip archive."""

import hashlib
import io
import re
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from side_ray.errors import NotThere, UserError
from side_ray.storage import Store, open_store

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip", ".parquet")
BUFFER = 4 << 20
SAMPLED_FILES = 64
WHOLE_BYTES = 256 << 20
EDGE_BYTES = 1 << 20
LARGEST_IMAGE = 256 << 20
_RUN = r"(^|/)(prepare|samples|report)/[0-9a-f]{12}/"
_HIDDEN = r"(^|/)(\.|__MACOSX/)"


class Unreadable(Exception):
    """One file of a source cannot be read. The message is the reason."""


class Listing(NamedTuple):
    """Names and sizes (int64) of files, sorted by the bytes of the names, so that the order is the same in every storage."""

    names: pa.StringArray
    sizes: np.ndarray

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, int]]) -> "Listing":
        names, sizes, blocks = [], [], []
        for name, size in pairs:
            names.append(name)
            sizes.append(size)
            if len(names) == 1 << 16:
                blocks.append((pa.array(names, pa.string()), np.array(sizes, np.int64)))
                names, sizes = [], []
        blocks.append((pa.array(names, pa.string()), np.array(sizes, np.int64)))
        joined = pa.concat_arrays([block for block, _ in blocks])
        visible = np.flatnonzero(pc.invert(pc.match_substring_regex(joined, _HIDDEN)).to_numpy(zero_copy_only=False))
        joined, kept = joined.take(pa.array(visible)), np.concatenate([block for _, block in blocks])[visible]
        order = pc.sort_indices(joined)
        return cls(joined.take(order), kept[order.to_numpy()])

    def matching(self, pattern: str) -> "Listing":
        """The files whose name matches a regular expression, ignoring case."""
        found = pc.match_substring_regex(self.names, pattern, ignore_case=True).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(found)
        return Listing(self.names.take(pa.array(rows)), self.sizes[rows])


class Files:
    """One file, or a directory with everything below it except hidden files. Picklable and small: it holds locations, not
    content.

    Args:
        uri: as the config gives it, for messages.
        only: the key of the single file; None = everything in the store.
    """

    def __init__(self, store: Store, uri: str, only: str | None = None) -> None:
        self.store, self.uri, self.only = store, uri, only
        self._listing: Listing | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_listing": None}

    def listing(self) -> Listing:
        if self._listing is None:
            pairs: Iterable[tuple[str, int]]
            if self.only is not None:
                pairs = [(self.only, self.store.size(self.only) or 0)]
            else:
                pairs = ((entry.key, entry.size) for entry in self.store.list())
            self._listing = Listing.of(pairs)
            run = self._listing.matching(_RUN).names
            if len(run):
                raise UserError(
                    f"{self.uri} holds a run directory of side-ray ({run[0].as_py()}), whose images are no data; move it away"
                )
        return self._listing

    def newest(self) -> float:
        """When the newest of the files was modified, Unix time in s."""
        return max((each.mtime for each in self.store.list() if self.only in (None, each.key)), default=0.0)

    def open(self, name: str) -> BinaryIO:
        """A file for random-access reading, read ahead in blocks.

        Raises:
            FileNotFoundError: it does not exist (any more, or on this machine).
        """
        return cast(BinaryIO, io.BufferedReader(self.store.open_input(name), BUFFER))

    def read(self, name: str) -> bytes:
        """The content of one file.

        Raises:
            Unreadable: it is larger than any image.
        """
        data = self.store.read(name)
        if len(data) > LARGEST_IMAGE:
            raise Unreadable(f"{len(data):,} bytes are too many for an image")
        return data

    def identity(self) -> str:
        """A hash of all names and of the content of all files.

        It begins with the identity of earlier versions: SHA-256 over all names and sizes and over the content of up to 64 evenly
        spaced files, whole where these are no more than 256 MiB together, else their first, middle and last MiB. Where that is
        not all of the content, `+` and a hash over the content of every file follow (`Store.versions`): local copies of the same
        files have the same identity, copies in object storage have another one.
        """
        names, sizes = self.listing()
        digest = hashlib.sha256()
        for name, size in zip(names, sizes.tolist(), strict=True):
            digest.update(f"{'' if self.only else name.as_py()}\0{size}\n".encode())
        last = max(0, len(sizes) - 1)
        rows = np.unique(np.linspace(0, last, SAMPLED_FILES).astype(int)).tolist()[: len(sizes)]
        whole = sizes[rows].sum() <= WHOLE_BYTES
        for row in rows:
            size = sizes[row].item()
            starts = [0] if whole else sorted({0, max(0, (size - EDGE_BYTES) // 2), max(0, size - EDGE_BYTES)})
            with self.store.open_input(names[row].as_py()) as file:
                for start in starts:
                    file.seek(start)
                    digest.update(file.read(size if whole else EDGE_BYTES))
        if whole and len(rows) == len(sizes):
            return digest.hexdigest()
        every = hashlib.sha256()
        for version in self.store.versions(names.to_pylist()):
            every.update(f"{version}\n".encode())
        return f"{digest.hexdigest()}+{every.hexdigest()}"


def earlier_identity(identity: str) -> str:
    """What earlier versions gave as the identity of the same files; they did not read all content."""
    return re.sub(r"\+[0-9a-f]{64}", "", identity)


class ZipFiles:
    """The files inside a zip archive, under the interface of `Files`."""

    def __init__(self, outer: Files, archive: str) -> None:
        self.outer, self.archive = outer, archive
        self.uri, self.only = outer.uri, outer.only
        self._forget()

    def _forget(self) -> None:
        self._opened: zipfile.ZipFile | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"outer": self.outer, "archive": self.archive}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.outer, self.archive = state["outer"], state["archive"]
        self.uri, self.only = self.outer.uri, self.outer.only
        self._forget()

    def _zip(self) -> zipfile.ZipFile:
        with self._lock:
            if self._opened is None:
                try:
                    self._opened = zipfile.ZipFile(self.outer.open(self.archive))
                except (zipfile.BadZipFile, OSError, EOFError) as error:
                    raise UserError(
                        f"{self.archive} in {self.uri} is not a whole zip archive ({error}); get it again", "data.path"
                    ) from None
            return self._opened

    def listing(self) -> Listing:
        entries = [entry for entry in self._zip().infolist() if not entry.is_dir()]
        twice = next((name for name, count in Counter(e.filename for e in entries).items() if count > 1), None)
        if twice is not None:
            raise UserError(f"{self.archive} in {self.uri} holds {twice} twice; pack each file once", "data.path")
        return Listing.of((entry.filename, entry.file_size) for entry in entries)

    def read(self, name: str) -> bytes:
        archive = self._zip()
        try:
            if archive.getinfo(name).file_size > LARGEST_IMAGE:
                raise Unreadable("it is too large for an image")
            return archive.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise Unreadable(f"the archive is damaged there: {error}") from error

    def newest(self) -> float:
        return self.outer.newest()

    def identity(self) -> str:
        return self.outer.identity()


def open_files(path: str, key: str, endpoint: str | None = None, region: str | None = None) -> Files:
    """The files at a local path or `s3://bucket/prefix`.

    Args:
        key: the config's key, for messages.

    Raises:
        UserError: nothing is there.
        RunError: the storage cannot be reached.
    """
    if "://" in path and not path.startswith("s3://"):
        raise UserError(f"cannot read from {path}; give a local path or s3://bucket/prefix", key)
    if path.startswith("s3://"):
        parent, _, name = path.rstrip("/").rpartition("/")
        if name.lower().endswith((*ARCHIVES, ".txt")) and parent != "s3:/":
            files = Files(open_store(parent, key=key, endpoint=endpoint, region=region), path, name)
            if files.store.exists(name):
                return files
        files = Files(open_store(path, key=key, endpoint=endpoint, region=region), path)
        if next(files.store.list(), None) is None:
            raise UserError(f"there is nothing at {path}; check the path and storage.endpoint", key)
        return files
    local = Path(path).expanduser().absolute()
    if local.is_dir():
        return Files(open_store(str(local)), path)
    if local.is_file():
        return Files(open_store(str(local.parent)), path, local.name)
    raise NotThere(f"there is no file or directory {path}; check the path", key)
