"""A local cache of directories in object storage, for content that must be opened as files (mostly weights).

It is limited in size: what was not used for longest is removed first.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from side_ray.errors import RunError


def cache_root() -> Path:
    """Where downloads are kept: $SIDE_RAY_CACHE, else `side-ray` in the user's cache directory."""
    chosen = os.environ.get("SIDE_RAY_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "side-ray"


CACHE_GB = 50.0
IN_USE_S = 3600.0
"""Whatever was asked for within this time (seconds) may be being read and stays."""


def cached_dir(identity: str, fill: Callable[[Path], None], limit: float, fresh: bool = False) -> Path:
    """The cached directory of an `identity`. If it does not exist, `fill(directory)` makes it, atomically and once per machine,
    also if several processes ask for it.

    Args:
        limit: size of the whole cache in bytes. After `fill`, directories that were not used for longest are removed.
        fresh: make it again.

    Raises:
        RunError: the cache cannot be written.
    """
    root = cache_root()
    name = hashlib.sha256(identity.encode()).hexdigest()[:32]
    final = root / name
    if final.is_dir() and not fresh:
        with suppress(OSError):
            os.utime(final)
        return final
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if fresh or not final.is_dir():
                # This process holds the lock, so other drafts of this name belong to killed processes.
                for left in root.glob(f".{name}.*"):
                    shutil.rmtree(left, ignore_errors=True)
                with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=root, ignore_cleanup_errors=True) as draft:
                    content = Path(draft, "content")
                    content.mkdir()
                    fill(content)
                    shutil.rmtree(final, ignore_errors=True)
                    content.rename(final)
                evict(root, limit)
    except OSError as error:
        reason = error.strerror or error
        raise RunError(
            f"cannot keep downloads in {root}: {reason}; set SIDE_RAY_CACHE to a directory with space"
        ) from error
    return final


def evict(root: Path, limit: float) -> None:
    """Remove the directories that were not used for longest, until the cache takes at most `limit` bytes."""
    used = {path: path.stat().st_mtime for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")}
    sizes = {path: sum(file.lstat().st_size for file in path.rglob("*") if file.is_file()) for path in used}
    total = sum(sizes.values())
    for path in sorted(used, key=used.__getitem__):
        if total <= limit or time.time() - used[path] < IN_USE_S:
            break
        shutil.rmtree(path, ignore_errors=True)
        path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
        total -= sizes[path]
