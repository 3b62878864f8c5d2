"""Commands in another root file system, without an engine for containers."""

import shlex
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
NAMESPACES = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child")
"""What is mounted is seen by the command alone, and no process that it starts outlives it or the tests."""


def why_not() -> str:
    """Why this process cannot make a chroot, or nothing if it can."""
    if missing := [name for name in ("debootstrap", "setpriv", "unshare", "chroot") if shutil.which(name) is None]:
        return f"without {', '.join(missing)}"
    mount = [*NAMESPACES, "mount", "-t", "proc", "proc", "/proc"]
    if subprocess.run(mount, capture_output=True).returncode:
        return "needs root, and the right to mount"
    return ""


class Chroot:
    """A root file system in a folder. It can be removed at any time, since nothing is mounted in it outside of `run`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(
        self,
        command: list[str],
        environment: Mapping[str, str],
        *,
        directory: str = "/",
        user: str = "root",
        lent: Mapping[Path, str] | None = None,
        writable: Collection[str] | None = None,
    ) -> str:
        """Run a command as process 1 of the root file system.

        Args:
            lent: files and folders of the host, and where the command finds them, read-only. Those below /run leave no trace.
            writable: the only folders that can be written to. They are empty at first, and lost. By default all can be.

        Returns:
            What it prints, standard error included.

        Raises:
            AssertionError: it fails.
        """
        inside = ["env", "--ignore-environment", f"--chdir={directory}", *(f"{k}={v}" for k, v in environment.items())]
        last = shlex.join(
            ["exec", "chroot", f"--userspec={user}", str(self.root), "/usr/bin/env", *inside[1:], *command]
        )
        script = "\n".join(["set -e", *self._mounts(lent or {}, writable), last])
        done = subprocess.run(
            [*NAMESPACES, "sh", "-c", script],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        assert done.returncode == 0, f"{shlex.join(command)}: exit {done.returncode}\n{done.stdout[-8000:]}"
        return done.stdout

    def _mounts(self, lent: Mapping[Path, str], writable: Collection[str] | None) -> Iterator[str]:
        yield _mount("--bind", self.root, self.root)
        yield _mount("-t", "proc", "proc", self.root / "proc")
        yield _mount("-t", "sysfs", "-o", "ro", "sysfs", self.root / "sys")
        yield _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", self.root / "run")
        yield _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", self.root / "dev")
        for name in DEVICES:
            yield from _bound(Path("/dev", name), self.root / "dev" / name)
        yield shlex.join(["ln", "-s", "/proc/self/fd", str(self.root / "dev" / "fd")])
        scratch = ["/dev/shm", *(each for each in writable or () if each != "/dev/shm")]
        for name in scratch:
            path = self.root / name.lstrip("/")
            yield shlex.join(["mkdir", "-p", str(path)])
            yield _mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", path)
        for source, target in lent.items():
            path = self.root / target.lstrip("/")
            yield from _bound(source, path)
            yield _mount("-o", "remount,bind,ro", path)
        if writable is not None:
            yield _mount("-o", "remount,bind,ro", self.root)


def _bound(source: Path, target: Path) -> Iterator[str]:
    yield shlex.join(["mkdir", "-p", str(target if source.is_dir() else target.parent)])
    if not source.is_dir():
        yield shlex.join(["touch", str(target)])
    yield _mount("--bind", source, target)


def _mount(*arguments: str | Path) -> str:
    return shlex.join(["mount", *map(str, arguments)])
