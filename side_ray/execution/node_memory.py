"""Arrays that the processes of one node hold together: made by the first, mapped by all, gone with the last of them.

The memory is a file without a name in the node's temporary directory, so that a killed process leaves nothing behind. Who
maps it writes down where it can be had (`/proc/<pid>/fd/<n>`) under a lock that a dead process cannot keep.
"""

import fcntl
import hashlib
import json
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

Fill = Callable[[np.ndarray], None]


def shared_array(key: str, shape: tuple[int, ...], fill: Fill) -> np.ndarray:
    """A float32 array that all processes of this user on this node hold once; not to be written to.

    Args:
        key: names the content.
        shape: not empty.
        fill: writes the content into the array, in the one process that comes first; the others wait.

    Raises:
        OSError: the temporary directory cannot take it.
    """
    name, size = hashlib.sha256(f"{key} {shape}".encode()).hexdigest()[:32], 4 * int(np.prod(shape))
    with _locked(_directory() / name) as place:
        descriptor = _of_another(place, size)
        if descriptor is None:
            descriptor = _made(shape, size, fill)
        # Not closed while this process lives: it is where others find the memory.
        found = os.fstat(descriptor)
        place.seek(0)
        place.truncate()
        json.dump({"pid": os.getpid(), "fd": descriptor, "inode": found.st_ino, "device": found.st_dev}, place)
    # Copied on write, as torch asks for writable memory.
    return _mapped(descriptor, size, mmap.ACCESS_COPY).reshape(shape)


def _directory() -> Path:
    directory = Path(tempfile.gettempdir()) / f"side-ray-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{directory} belongs to another user or is open to others")
    return directory


@contextmanager
def _locked(path: Path) -> Iterator[IO[str]]:
    with path.open("a+") as place:
        fcntl.flock(place, fcntl.LOCK_EX)
        yield place


def _of_another(place: IO[str], size: int) -> int | None:
    """A descriptor of the file that another process has written down, if it still has it."""
    place.seek(0)
    try:
        told: dict[str, Any] = json.load(place)
        # By now the number may be another process's, and its descriptor a pipe or a terminal.
        descriptor = os.open(f"/proc/{told['pid']}/fd/{told['fd']}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    found = os.fstat(descriptor)
    if (found.st_ino, found.st_dev, found.st_size) == (told["inode"], told["device"], size):
        return descriptor
    os.close(descriptor)
    return None


def _made(shape: tuple[int, ...], size: int, fill: Fill) -> int:
    descriptor, path = tempfile.mkstemp(dir=_directory())
    Path(path).unlink()
    try:
        # Taken at once: a full disk met while writing through a map would kill the process.
        os.posix_fallocate(descriptor, 0, size)
        fill(_mapped(descriptor, size, mmap.ACCESS_WRITE).reshape(shape))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _mapped(descriptor: int, size: int, access: int) -> np.ndarray:
    return np.frombuffer(mmap.mmap(descriptor, size, access=access), np.float32)
