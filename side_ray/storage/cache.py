"""A local cache of directories in object storage, for content that must be opened as files (mostly weights)."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from side_ray.errors import RunError


def cache_root() -> Path:
    """Where downloads are kept: $SIDE_RAY_CACHE, else `side-ray` in the user's cache directory."""
    chosen = os.environ.get("SIDE_RAY_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "side-ray"


def cached_dir(identity: str, fill: Callable[[Path], None]) -> Path:
    """The cached directory of an `identity`. If it does not exist, `fill(directory)` makes it, atomically and once per machine,
    also if several processes ask for it.

    Raises:
        RunError: the cache cannot be written.
    """
    root = cache_root()
    name = hashlib.sha256(identity.encode()).hexdigest()[:32]
    final = root / name
    if final.is_dir():
        return final
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not final.is_dir():
                # This process holds the lock, so other drafts of this name belong to killed processes.
                for left in root.glob(f".{name}.*"):
                    shutil.rmtree(left, ignore_errors=True)
                with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=root, ignore_cleanup_errors=True) as draft:
                    content = Path(draft, "content")
                    content.mkdir()
                    fill(content)
                    content.rename(final)
    except OSError as error:
        reason = error.strerror or error
        raise RunError(
            f"cannot keep downloads in {root}: {reason}; set SIDE_RAY_CACHE to a directory with space"
        ) from error
    return final
