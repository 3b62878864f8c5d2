"""Arrays shared by the processes of one node: the first process creates one, all map it, and it is freed with the last.

The memory is an unlinked file in the node's temporary directory, so a killed process leaves nothing behind. Each process that
maps it records where others can open it (`/proc/<pid>/fd/<n>`), under a file lock that the kernel releases when the process dies.
"""

import fcntl
import hashlib
import json
import mmap
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from side_ray.storage.scratch import private_directory

Fill = Callable[[np.ndarray], None]
GIVEN_BACK_EVERY = 0.2
"""Seconds."""
LARGE = 2**26
"""Bytes of an array from which on its pages are given back."""


def shared_array(key: str, shape: tuple[int, ...], fill: Fill) -> np.ndarray:
    """A float32 array that all processes of this user on this node share. Do not write to it.

    Args:
        key: identifies the content.
        shape: shape of the array, at least one element.
        fill: writes the content into the array; called in the first process only, while the others wait.

    Raises:
        OSError: the temporary directory has no room for it, or cannot be used.
    """
    name, size = hashlib.sha256(f"{key} {shape}".encode()).hexdigest()[:32], 4 * int(np.prod(shape))
    with _locked(private_directory() / name) as record:
        descriptor = _of_another(record, size)
        if descriptor is None:
            descriptor = _made(shape, size, fill)
        # Kept open while this process lives: other processes open the memory through it.
        found = os.fstat(descriptor)
        record.seek(0)
        record.truncate()
        json.dump({"pid": os.getpid(), "fd": descriptor, "inode": found.st_ino, "device": found.st_dev}, record)
    # Copy on write, because torch requires writable memory.
    return _mapped(descriptor, size, mmap.ACCESS_COPY).reshape(shape)


@contextmanager
def passing(array: np.ndarray) -> Iterator[None]:
    """Keep little of a large `shared_array` in this process's resident memory while the block reads it, and nothing after it.

    What is read of it again is mapped again.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    ended = threading.Event()

    def give_back() -> None:
        while not ended.wait(GIVEN_BACK_EVERY):
            base.madvise(mmap.MADV_DONTNEED)

    if not isinstance(base, mmap.mmap) or array.nbytes < LARGE:
        yield
        return
    thread = threading.Thread(target=give_back, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        base.madvise(mmap.MADV_DONTNEED)


def forget_dead() -> None:
    """Remove the records of arrays that no process holds any more, and the directory if it is empty."""
    with suppress(OSError):
        directory = private_directory()
        for path in directory.iterdir():
            if path.is_file():
                with _locked(path) as record:
                    descriptor = _of_another(record, None)
                    if descriptor is None:
                        path.unlink()
                    else:
                        os.close(descriptor)
        directory.rmdir()


@contextmanager
def _locked(path: Path) -> Iterator[IO[str]]:
    with path.open("a+") as record:
        fcntl.flock(record, fcntl.LOCK_EX)
        yield record


def _of_another(record: IO[str], size: int | None) -> int | None:
    """A descriptor of the file of `size` (None = any) that another process has recorded, if that process still has it open."""
    record.seek(0)
    try:
        recorded: dict[str, Any] = json.load(record)
        # The pid may have been reused by another process, and its descriptor may be a pipe or a terminal.
        descriptor = os.open(f"/proc/{recorded['pid']}/fd/{recorded['fd']}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    found = os.fstat(descriptor)
    same = (found.st_ino, found.st_dev) == (recorded["inode"], recorded["device"])
    if same and size in (None, found.st_size):
        return descriptor
    os.close(descriptor)
    return None


def _made(shape: tuple[int, ...], size: int, fill: Fill) -> int:
    descriptor, path = tempfile.mkstemp(dir=private_directory())
    Path(path).unlink()
    try:
        # Reserve the space first: a write through a map on a full disk would kill the process (SIGBUS).
        os.posix_fallocate(descriptor, 0, size)
        fill(_mapped(descriptor, size, mmap.ACCESS_WRITE).reshape(shape))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _mapped(descriptor: int, size: int, access: int) -> np.ndarray:
    return np.frombuffer(mmap.mmap(descriptor, size, access=access), np.float32)
