"""Who trains an artifact: two drivers on one run directory must not write the same checkpoints, so the second one waits."""

import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from side_ray.execution.progress import Reporter
from side_ray.runs.run import Artifact

CLAIM = "_claim.json"
RENEW_EVERY_S = 10.0
STALE_AFTER_S = 60.0


class Claim:
    """A lease on training one artifact. It lapses when its driver is gone: at once on the same machine, else by its age."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self._owner = {"machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}
        self._renewed = 0.0

    def wait_for(self, reporter: Reporter, title: str) -> None:
        """Take the claim, or wait until its owner is done (the artifact is then complete) or gone."""
        told = False
        while not self.artifact.done and not self._take():
            if not told:
                reporter.say(f"{title}: another driver is at it; waiting for it to finish")
                told = True
            time.sleep(1.0)

    def renew(self) -> None:
        """Say that the owner lives; cheap enough to be called every second."""
        if time.monotonic() - self._renewed >= RENEW_EVERY_S:
            self._renewed = time.monotonic()
            self.artifact.write_json(CLAIM, self._words())

    def release(self) -> None:
        """Give the claim up."""
        self.artifact.store.delete(f"{self.artifact.key}/{CLAIM}")

    def _take(self) -> bool:
        words = json.dumps(self._words()).encode()
        key = f"{self.artifact.key}/{CLAIM}"
        if self.artifact.store.write_if_absent(key, words):
            return True
        try:
            claim = self.artifact.read_json(CLAIM)
        except FileNotFoundError:
            return False
        if _lapsed(claim):
            self.artifact.store.delete(key)
            return self.artifact.store.write_if_absent(key, words)
        return {name: claim[name] for name in self._owner} == self._owner

    def _words(self) -> dict[str, Any]:
        return {**self._owner, "at": time.time()}


@contextmanager
def held(artifact: Artifact, reporter: Reporter, title: str) -> Iterator[None]:
    """Hold the claim on an artifact while the block runs. Waits as `Claim.wait_for` does: the artifact may then be complete."""
    claim = Claim(artifact)
    claim.wait_for(reporter, title)
    if artifact.done:
        yield
        return
    over = threading.Event()

    def keep() -> None:
        while not over.wait(1.0):
            claim.renew()

    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()
        claim.release()


def _lapsed(claim: dict[str, Any]) -> bool:
    if claim["machine"] == _machine():
        return _started(claim["pid"]) != claim["started"]
    return time.time() - claim["at"] > STALE_AFTER_S


def _machine() -> str:
    """This boot of this machine: a name alone may be shared by containers."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    words = [platform.node(), boot.read_text().strip() if boot.exists() else ""]
    return "/".join([*words, str(namespace.readlink()) if namespace.exists() else ""])


def _started(pid: int) -> str | None:
    """When a process began, in clock ticks since boot, which tells a pid given out again; None where it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return None if fields[0] == "Z" else fields[19]
    except (FileNotFoundError, ProcessLookupError):
        return None
