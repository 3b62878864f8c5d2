"""Temporary directories of this user, 0700. What killed processes leave in them is removed by the next one that asks for one."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from side_ray.errors import RunError

LOCK = ".lock"
SHORT = "/tmp"  # noqa: S108
CLEARED_AFTER = 30
"""Tenths of a second."""


def private_directory(temporary: str | None = None) -> Path:
    """`side-ray-<uid>` in the node's temporary directory, which only this user can enter.

    Raises:
        PermissionError: it belongs to another user, or is open to others.
    """
    directory = Path(temporary or tempfile.gettempdir()) / f"side-ray-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{directory} belongs to another user or is open to others")
    return directory


@contextmanager
def scratch(longest: int | None = None) -> Iterator[Path]:
    """An empty temporary directory, removed at the end of the block.

    The kernel releases the lock of a process that dies, and the next call removes its directory.

    Args:
        longest: of its path, in bytes. Where the temporary directory has a longer one, it is made in /tmp.

    Raises:
        RunError: the temporary directory cannot be used.
    """
    temporary = tempfile.gettempdir()
    if longest is not None and len(os.fsencode(f"{temporary}/side-ray-{os.getuid()}/scratch/12345678")) > longest:
        temporary = SHORT
    try:
        descriptor, directory = _locked_directory(temporary)
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"cannot use {temporary}: {reason}; set TMPDIR to another directory") from error
    try:
        yield directory
    finally:
        for _ in range(CLEARED_AFTER):
            shutil.rmtree(directory, ignore_errors=True)
            if not directory.exists():
                break
            time.sleep(0.1)  # processes that are ending may still write into it
        Path(f"{directory}{LOCK}").unlink(missing_ok=True)
        os.close(descriptor)
        with suppress(OSError):  # others are using them
            directory.parent.rmdir()
            directory.parent.parent.rmdir()


def _locked_directory(temporary: str) -> tuple[int, Path]:
    """A new directory, and a descriptor that locks it while this process lives."""
    for left in reversed(range(10)):
        root = private_directory(temporary) / "scratch"
        try:
            root.mkdir(exist_ok=True)
            sweep_scratch(root)
            descriptor, name = tempfile.mkstemp(prefix="", suffix=LOCK, dir=root)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            directory = Path(name.removesuffix(LOCK))
            directory.mkdir()
            return descriptor, directory
        except FileNotFoundError:  # another process has just left the directory, and removed it
            if not left:
                raise
    raise AssertionError


def sweep_scratch(root: Path) -> None:
    """Remove the directories below `root` whose owners are dead."""
    for lock in root.glob(f"*{LOCK}"):
        with suppress(OSError), lock.open("r") as held:
            # A lock that is free belongs to a dead process, or to one that is about to take it, a moment after its creation.
            directory = lock.with_suffix("")
            if not directory.is_dir():
                continue
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
            lock.unlink(missing_ok=True)
