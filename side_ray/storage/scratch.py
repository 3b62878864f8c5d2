"""Temporary directories of this user, 0700. What killed processes leave in them is removed by the next one that asks for one."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from side_ray.errors import RunError

LOCK = ".lock"


def private_directory() -> Path:
    """`side-ray-<uid>` in the node's temporary directory, which only this user can enter.

    Raises:
        PermissionError: it belongs to another user, or is open to others.
    """
    directory = Path(tempfile.gettempdir()) / f"side-ray-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{directory} belongs to another user or is open to others")
    return directory


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty temporary directory, removed at the end of the block.

    The kernel releases the lock of a process that dies, and the next call removes its directory.

    Raises:
        RunError: the temporary directory cannot be used.
    """
    try:
        root = private_directory() / "scratch"
        root.mkdir(exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"cannot use {tempfile.gettempdir()}: {reason}; set TMPDIR to another directory") from error
    sweep_scratch(root)
    descriptor, name = tempfile.mkstemp(suffix=LOCK, dir=root)
    directory = Path(name.removesuffix(LOCK))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        directory.mkdir()
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        Path(name).unlink(missing_ok=True)
        os.close(descriptor)


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
