"""The files at a data path: on a local disk or in object storage, plain or in a zip archive."""

import hashlib
import io
import re
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from side_ray.errors import NotThere, UserError, check_credentials
from side_ray.sources.reading.pixels import HEAD_BYTES, is_image
from side_ray.storage import Store, open_store

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip", ".parquet")
BUFFER = 4 << 20
SAMPLED_FILES = 64
WHOLE_BYTES = 256 << 20
EDGE_BYTES = 1 << 20
LARGEST_IMAGE = 256 << 20
LOOKED_AT = 64
"""Files of one unknown extension that are looked into; all of them only where these differ."""
READERS = 16
_RUN = r"(^|/)(prepare|samples|report)/[0-9a-f]{12}/"
_HIDDEN = r"(^|/)(\.|__MACOSX/)"
_GLOB = {"\\*\\*/": "(.*/)?", "\\*": "[^/]*", "\\?": "[^/]"}

_SPLIT = re.compile(r"(?:^|/)(?:[^/]*[-_.])?(train|test|validation|valid|val|dev|eval)(?=[-_./])", re.IGNORECASE)


def shown(name: str) -> str:
    """A name as text: bytes that are not UTF-8 as %XX."""
    return re.sub("[\udc80-\udcff]", lambda odd: f"%{ord(odd[0]) - 0xDC00:02X}", name)


def _raw(name: str) -> str:
    """The name of which `shown` made this one, where it had bytes that are not UTF-8."""
    return re.sub("%([89A-F][0-9A-F])", lambda odd: chr(0xDC00 + int(odd[1], 16)), name)


class Unreadable(Exception):
    """One file of a source cannot be read. The message is the reason."""


class Listing(NamedTuple):
    """Names and sizes (int64; -1 for a link to nothing) of files, sorted by the bytes of the names, so that the order is the
    same in every storage."""

    names: pa.StringArray
    sizes: np.ndarray
    hidden: tuple[str, ...] = ()
    """Names of hidden files, which are no part of the listing."""

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, int]]) -> "Listing":
        names, sizes, blocks = [], [], []
        for name, size in pairs:
            names.append(shown(name))
            sizes.append(size)
            if len(names) == 1 << 16:
                blocks.append((pa.array(names, pa.string()), np.array(sizes, np.int64)))
                names, sizes = [], []
        blocks.append((pa.array(names, pa.string()), np.array(sizes, np.int64)))
        joined = pa.concat_arrays([block for block, _ in blocks])
        visible = np.flatnonzero(pc.invert(pc.match_substring_regex(joined, _HIDDEN)).to_numpy(zero_copy_only=False))
        hidden = joined.filter(pc.match_substring_regex(joined, _HIDDEN)).to_pylist()
        joined, kept = joined.take(pa.array(visible)), np.concatenate([block for _, block in blocks])[visible]
        order = pc.sort_indices(joined)
        return cls(joined.take(order), kept[order.to_numpy()], tuple(sorted(hidden)))

    def matching(self, pattern: str) -> "Listing":
        """The files whose name matches a regular expression, ignoring case."""
        found = pc.match_substring_regex(self.names, pattern, ignore_case=True).to_numpy(zero_copy_only=False)
        return self.take(np.flatnonzero(found))

    def take(self, rows: np.ndarray) -> "Listing":
        """The files at these positions."""
        return Listing(self.names.take(pa.array(rows, pa.int64())), self.sizes[rows], self.hidden)


class Files:
    """One file, or a directory with everything below it except hidden files. Picklable and small: it holds locations, not
    content.

    Args:
        uri: as the config gives it, for messages.
        only: the key of the single file; None = everything in the store.
        pattern: a regular expression of the names; "" = all.
    """

    def __init__(self, store: Store, uri: str, only: str | None = None, pattern: str = "") -> None:
        self.store, self.uri, self.only, self.pattern = store, uri, only, pattern
        self._listing: Listing | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_listing": None}

    def listing(self) -> Listing:
        if self._listing is None:
            pairs: Iterable[tuple[str, int]]
            if self.only is not None:
                pairs = [(self.only, self.store.size(self.only) or 0)]
            else:
                pairs = ((entry.key, entry.size) for entry in self.store.list_all())
            listing = Listing.of(pairs)
            self._listing = listing.matching(self.pattern) if self.pattern else listing
            run = self._listing.matching(_RUN).names
            if len(run):
                raise UserError(
                    f"{self.uri} holds a run directory of side-ray ({run[0].as_py()}), whose images are no data; move it away"
                )
        return self._listing

    def input(self, name: str) -> pa.NativeFile:
        """A file of the listing for random-access reading.

        Raises:
            Unreadable: it is a link to nothing, or was removed.
        """
        try:
            try:
                return self.store.open_input(name)
            except FileNotFoundError:
                if _raw(name) == name:
                    raise
                return self.store.open_input(_raw(name))
        except FileNotFoundError:
            raise Unreadable("is a link to nothing, or was removed") from None
        except ValueError:
            raise Unreadable("has a key with an empty part, '.' or '..'; rename it") from None

    def newest(self) -> float:
        """When the newest of the files was modified, Unix time in s."""
        return max((each.mtime for each in self.store.list() if self.only in (None, each.key)), default=0.0)

    def open(self, name: str) -> BinaryIO:
        """Like `input`, read ahead in blocks.

        Raises:
            FileNotFoundError: it does not exist (any more, or on this machine).
        """
        try:
            return cast(BinaryIO, io.BufferedReader(self.input(name), BUFFER))
        except Unreadable as error:
            raise FileNotFoundError(f"{name} in {self.uri} {error}") from None

    def read(self, name: str) -> bytes:
        """The content of one file.

        Raises:
            Unreadable: it is larger than any image.
        """
        with self.input(name) as file:
            data: bytes = file.read(LARGEST_IMAGE + 1)
        if len(data) > LARGEST_IMAGE:
            raise Unreadable(f"more than {LARGEST_IMAGE:,} bytes are too many for an image")
        return data

    def head(self, name: str, size: int) -> bytes:
        """The first bytes of one file; none if it cannot be read."""
        try:
            with self.input(name) as file:
                return bytes(file.read(size))
        except Unreadable:
            return b""

    def identity(self) -> str:
        """A hash of all names and of the content of all files.

        It begins with the identity of earlier versions: SHA-256 over all names and sizes and over the content of up to 64 evenly
        spaced files, whole where these are no more than 256 MiB together, else their first, middle and last MiB. Where that is
        not all of the content, `+` and a hash over the content of every file follow (`Store.versions`): local copies of the same
        files have the same identity, copies in object storage have another one.
        """
        listing = self.listing()
        names, sizes, _ = listing.take(np.flatnonzero(listing.sizes >= 0))
        digest = hashlib.sha256()
        for name, size in zip(names, sizes.tolist(), strict=True):
            digest.update(f"{'' if self.only else name.as_py()}\0{size}\n".encode())
        last = max(0, len(sizes) - 1)
        rows = np.unique(np.linspace(0, last, SAMPLED_FILES).astype(int)).tolist()[: len(sizes)]
        whole = sizes[rows].sum() <= WHOLE_BYTES
        for row in rows:
            size = sizes[row].item()
            starts = [0] if whole else sorted({0, max(0, (size - EDGE_BYTES) // 2), max(0, size - EDGE_BYTES)})
            with suppress(Unreadable), self.input(names[row].as_py()) as file:
                for start in starts:
                    file.seek(start)
                    digest.update(file.read(size if whole else EDGE_BYTES))
        if whole and len(rows) == len(sizes):
            return digest.hexdigest()
        every = hashlib.sha256()
        for version in self._versions(names.to_pylist()):
            every.update(f"{version}\n".encode())
        return f"{digest.hexdigest()}+{every.hexdigest()}"

    def _versions(self, names: list[str]) -> list[str]:
        """`Store.versions` of files of the listing."""
        found = list(self.store.versions(names))
        odd = [row for row, version in enumerate(found) if not version and _raw(names[row]) != names[row]]
        for row, version in zip(odd, self.store.versions([_raw(names[row]) for row in odd]), strict=True):
            found[row] = version
        return found


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
        self._entries: dict[str, zipfile.ZipInfo] = {}
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
                    archive = zipfile.ZipFile(self.outer.open(self.archive))
                except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
                    raise UserError(
                        f"{self.archive} in {self.uri} is not a whole zip archive ({error}); get it again", "data.path"
                    ) from None
                for entry in archive.infolist():
                    # Some Windows programs separate folders by backslashes.
                    name = shown(entry.filename.replace("\\", "/"))
                    if name.endswith("/"):
                        continue
                    if name in self._entries:
                        raise UserError(
                            f"{self.archive} in {self.uri} holds {name} twice; pack each file once", "data.path"
                        )
                    self._entries[name] = entry
                self._opened = archive
            return self._opened

    def listing(self) -> Listing:
        self._zip()
        return Listing.of((name, entry.file_size) for name, entry in self._entries.items())

    def read(self, name: str) -> bytes:
        archive = self._zip()
        if self._entries[name].file_size > LARGEST_IMAGE:
            raise Unreadable("it is too large for an image")
        return self.head(name, LARGEST_IMAGE, archive)

    def head(self, name: str, size: int, archive: zipfile.ZipFile | None = None) -> bytes:
        """The first bytes of one file."""
        archive = archive or self._zip()
        try:
            with archive.open(self._entries[name]) as file:
                return file.read(size)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
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
    check_credentials(path, key)
    root, glob = _split_glob(path)
    if glob:
        files = open_files(root, key, endpoint, region)
        return Files(files.store, path, pattern=_regex(glob))
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
    try:
        local = Path(path).expanduser().absolute()
    except RuntimeError:
        raise UserError(f"{path} names a home directory that does not exist; give the path itself", key) from None
    if local.is_dir():
        return Files(open_store(str(local)), path)
    if local.is_file():
        return Files(open_store(str(local.parent)), path, local.name)
    raise NotThere(f"there is no file or directory {path}; check the path", key)


def _split_glob(path: str) -> tuple[str, str]:
    """A path with * or ? as the directory before the first part that has one, and the rest; "" without any."""
    parts = path.split("/")
    first = next((number for number, part in enumerate(parts) if "*" in part or "?" in part), None)
    if first is None or ("://" not in path and Path(path).exists()):
        return path, ""
    return "/".join(parts[:first]) or ("/" if path.startswith("/") else "."), "/".join(parts[first:])


def _regex(glob: str) -> str:
    """A regular expression for names that match a glob: * and ? within one folder, **/ for any folders."""
    text = re.escape(glob)
    for wild, pattern in _GLOB.items():
        text = text.replace(wild, pattern)
    return f"^{text}$"


def split_images(files: Files | ZipFiles, known: frozenset[str]) -> tuple[np.ndarray, Listing]:
    """Which files of a listing are images (bool [N]), and the listing.

    Files with one of the `known` extensions count as images. Files of any other extension, or of none, are images if
    their content begins like one: up to `LOOKED_AT` of each extension are looked into, and all if these differ.
    """
    listing = files.listing()
    suffix = pc.utf8_lower(pc.struct_field(pc.extract_regex(listing.names, r"\.(?P<suffix>[^./]*)$"), "suffix"))
    codes = suffix.fill_null("").dictionary_encode()
    found = np.zeros(len(listing.names), bool)

    def look(rows: np.ndarray) -> np.ndarray:
        names = listing.names.take(pa.array(rows, pa.int64())).to_pylist()
        with ThreadPoolExecutor(READERS) as readers:
            return np.array(list(readers.map(lambda name: _begins_like_an_image(files, name), names)), bool)

    for code, extension in enumerate(codes.dictionary.to_pylist()):
        rows = np.flatnonzero(codes.indices.to_numpy() == code)
        if extension in known:
            found[rows] = True
            continue
        sample = rows[np.unique(np.linspace(0, len(rows) - 1, LOOKED_AT).astype(int))]
        seen = look(sample)
        found[rows] = seen[0] if (seen == seen[0]).all() else look(rows)
    return found, listing


def _begins_like_an_image(files: Files | ZipFiles, name: str) -> bool:
    try:
        return is_image(files.head(name, HEAD_BYTES))
    except Unreadable:
        return False


def mixed_splits(names: Iterable[str]) -> dict[str, int]:
    """How many files belong to each split, by their own name or that of a folder, if training and other files lie together."""
    counts = Counter(found[1].lower() for name in names if (found := _SPLIT.search(name)))
    return dict(counts) if "train" in counts and len(counts) > 1 else {}


def refuse_mixed_splits(files: Files, names: Iterable[str]) -> None:
    """Raise UserError if training files and others lie together, unless the path is a pattern that names them."""
    splits = {} if files.pattern else mixed_splits(names)
    if splits:
        found = ", ".join(f"{count:,} of {split}" for split, count in sorted(splits.items()))
        raise UserError(
            f"{files.uri} holds files of several splits ({found}); give those that the model was trained on as a pattern, for "
            f"example {files.uri.rstrip('/')}/**/*train* or, for all, {files.uri.rstrip('/')}/**/*",
            "data.path",
        )
