"""A store in a local directory."""

import errno
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs

from side_ray.errors import RunError
from side_ray.storage.base import TEMPORARY, Entry, Store, checked_key, checked_prefix
from side_ray.storage.digests import file_digests

A_FILE_IN_THE_WAY = "a part of this path is a file: move it away or choose another run.uri"
REMEDIES = {
    errno.ENOSPC: "free some space or choose another run.uri",
    errno.EDQUOT: "free some of your quota or choose another run.uri",
    errno.EFBIG: "raise the limit on file sizes or choose another run.uri",
    errno.EROFS: "choose a run.uri on a file system that is not read-only",
    errno.EACCES: "choose a run.uri that you may read and write",
    errno.EPERM: "choose a run.uri that you may read and write",
    errno.ENOTDIR: A_FILE_IN_THE_WAY,
    errno.EEXIST: A_FILE_IN_THE_WAY,
    errno.EISDIR: "a directory has this name: move it away or choose another run.uri",
    errno.ENOENT: "choose a run.uri in which directories can be created",
}
ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


def failed(action: str, path: Path, error: OSError) -> RunError:
    """One line that explains an error of the operating system."""
    remedy = REMEDIES.get(error.errno or 0, "check the disk and the path")
    return RunError(f"cannot {action} {path}: {error.strerror or error}; {remedy}")


class LocalStore(Store):
    """A directory of a local (or mounted) file system, created by the first write."""

    def __init__(self, root: Path):
        self.root = root.expanduser().absolute()
        self.uri = str(self.root)

    def _path(self, key: str) -> Path:
        return self.root / checked_key(key)

    def read(self, key: str) -> bytes:
        path = self._path(key)
        try:
            return path.read_bytes()
        except ABSENT:
            raise FileNotFoundError(f"no {key} in {self.uri}") from None
        except OSError as error:
            raise failed("read", path, error) from error

    def write(self, key: str, data: bytes) -> None:
        self._put(key, lambda file: file.write(data), replace)

    def write_if_absent(self, key: str, data: bytes) -> bool:
        return self._put(key, lambda file: file.write(data), link)

    def put_file(self, local: Path, key: str) -> None:
        with local.open("rb") as source:
            self._put(key, lambda file: shutil.copyfileobj(source, file, 1 << 20), replace)

    def put_dir(self, local: Path, prefix: str, without: Collection[str] = ()) -> None:
        if local.resolve() != (self.root / checked_prefix(prefix)).resolve():
            super().put_dir(local, prefix, without)

    def _put(self, key: str, fill: Callable[[BinaryIO], object], publish: Callable[[Path, Path], bool]) -> bool:
        """Fill a temporary file next to the object, sync it to disk, and `publish(temporary, path)` it atomically."""
        path = self._path(key)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            try:
                with create_with_parents(temporary) as file:
                    fill(file)
                    file.flush()
                    os.fsync(file.fileno())
                published = publish(temporary, path)
                sync_directory(path.parent)
                return published
            finally:
                with suppress(OSError):
                    temporary.unlink()
        except OSError as error:
            raise failed("write", path, error) from error

    def size(self, key: str) -> int | None:
        path = self._path(key)
        try:
            return path.stat().st_size if path.is_file() else None
        except ABSENT:
            return None
        except OSError as error:
            raise failed("read", path, error) from error

    def list(self, prefix: str = "") -> Iterator[Entry]:
        prefix = checked_prefix(prefix)
        entries = self._walk(self.root / prefix, f"{prefix}/" if prefix else "", ())
        return (entry for entry in entries if entry.size >= 0)

    def list_all(self) -> Iterator[Entry]:
        return self._walk(self.root, "", ())

    def _walk(self, directory: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[Entry]:
        """Every file below a directory; links to nothing have size -1. `above` identifies the directories that lead here."""
        try:
            with os.scandir(directory) as scan:
                children = sorted(scan, key=lambda child: child.name)
            own = directory.stat()
        except ABSENT:
            return
        except OSError as error:
            raise failed("list", directory, error) from error
        if (own.st_dev, own.st_ino) in above:
            return
        for child in children:
            try:
                status = child.stat()
            except FileNotFoundError:
                status = None
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise failed("list", Path(child.path), error) from error
                status = None
            if status and stat.S_ISDIR(status.st_mode):
                yield from self._walk(Path(child.path), f"{prefix}{child.name}/", (*above, (own.st_dev, own.st_ino)))
            elif status and not TEMPORARY.match(child.name):
                yield Entry(prefix + child.name, status.st_size, status.st_mtime)
            elif child.is_symlink():
                yield Entry(prefix + child.name, -1, 0.0)

    def delete(self, prefix: str) -> None:
        path = self._path(prefix.removesuffix("/"))
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except ABSENT:
            pass
        except OSError as error:
            raise failed("delete", path, error) from error

    def open_input(self, key: str) -> pa.NativeFile:
        path = self._path(key)
        if not path.is_file():
            raise FileNotFoundError(f"no {key} in {self.uri}")
        try:
            return pa.OSFile(os.fsencode(path), "rb")
        except OSError as error:
            raise failed("read", path, error) from error

    def versions(self, keys: Sequence[str]) -> Iterator[str]:
        return iter(file_digests(self.root, keys))

    def fetch_dir(self, prefix: str, fresh: bool = False, only: Collection[str] | None = None) -> Path:
        if next(self.list(prefix), None) is None:
            raise FileNotFoundError(f"nothing below {prefix} in {self.uri}")
        return self.root / checked_prefix(prefix)

    def arrow(self) -> tuple[pafs.FileSystem, str]:
        return pafs.LocalFileSystem(), self.uri

    def sweep(self, older_than: float) -> int:
        removed = 0
        for directory, _, names in os.walk(self.root):
            for path in (Path(directory, name) for name in names if TEMPORARY.match(name)):
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > older_than:
                        path.unlink()
                        removed += 1
        return removed

    def check(self) -> None:
        made = [path for path in (self.root, *self.root.parents) if not path.exists()]
        probe = self.root / f".check.{uuid.uuid4().hex}.tmp"
        try:
            with create_with_parents(probe) as file:
                file.write(b"x")
            probe.read_bytes()
            # As long as the probe is in the directory, no other process's check can remove it.
            any(self.root.iterdir())
            probe.unlink()
        except OSError as error:
            raise failed("write", self.root, error) from error
        finally:
            with suppress(OSError):
                probe.unlink()
            with suppress(OSError):
                for path in made:
                    path.rmdir()


def create_with_parents(path: Path) -> BinaryIO:
    """Open a new file for writing. Its directory is created, and created again if another process's `check` removes it."""
    for _ in range(20):
        with suppress(FileNotFoundError, FileExistsError):
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("xb")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("xb")


def replace(temporary: Path, path: Path) -> bool:
    """Replace the file at `path` with the temporary file."""
    temporary.replace(path)
    return True


def link(temporary: Path, path: Path) -> bool:
    """Put the temporary file at `path` unless a file exists there. Returns whether it was put."""
    try:
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            # Such a file system (FAT, some network mounts) cannot publish a complete file conditionally. One writer still wins,
            # but a reader may see the winner's file before it is complete.
            with path.open("xb") as file:
                file.write(temporary.read_bytes())
                file.flush()
                os.fsync(file.fileno())
    except FileExistsError:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)) from None
        return False
    return True


def sync_directory(directory: Path) -> None:
    """Make a rename in `directory` durable; no effect where directories cannot be synced."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
