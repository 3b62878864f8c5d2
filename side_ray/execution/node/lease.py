"""A lease on an artifact: if two drivers share a run directory, the second waits instead of writing the same checkpoints."""

import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from side_ray.errors import Damaged
from side_ray.execution.node.stopping import start_time
from side_ray.execution.progress import Reporter
from side_ray.runs.run import Artifact

LEASE = "_lease.json"
RENEW_EVERY_S = 10.0
STALE_AFTER_S = 60.0


class Lease:
    """The exclusive right to make one artifact.

    A lease expires when its driver has died: on the same machine at once, on another one `STALE_AFTER_S` after its last renewal.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self._owner = {"machine": _machine(), "pid": os.getpid(), "started": start_time(os.getpid())}
        self._renewed = 0.0

    def wait_for(self, reporter: Reporter, title: str) -> None:
        """Take the lease, waiting until its owner dies. Returns without the lease once the artifact is complete."""
        announced = False
        while not self.artifact.done and not self._take():
            if not announced:
                reporter.say(f"{title}: another driver is working on it; waiting until it finishes")
                announced = True
            time.sleep(1.0)

    def renew(self) -> None:
        """Record that the owner is alive, at most every `RENEW_EVERY_S`; cheap enough to be called every second."""
        if time.monotonic() - self._renewed >= RENEW_EVERY_S:
            self._renewed = time.monotonic()
            self.artifact.write_json(LEASE, self._content())

    def release(self) -> None:
        """Delete the lease."""
        self.artifact.store.delete(f"{self.artifact.key}/{LEASE}")

    def _take(self) -> bool:
        content = json.dumps(self._content()).encode()
        key = f"{self.artifact.key}/{LEASE}"
        if self.artifact.store.write_if_absent(key, content):
            return True
        try:
            found = self.artifact.read_json(LEASE)
        except FileNotFoundError:
            return False
        except Damaged:
            found = {}
        if not found.keys() >= {*self._owner, "at"} or _expired(found):
            self.artifact.store.delete(key)
            return self.artifact.store.write_if_absent(key, content)
        return {name: found[name] for name in self._owner} == self._owner

    def _content(self) -> dict[str, Any]:
        return {**self._owner, "at": time.time()}


@contextmanager
def hold_lease(artifact: Artifact, reporter: Reporter, title: str) -> Iterator[None]:
    """Hold the lease on an artifact while the block runs. Waits as `Lease.wait_for` does; the artifact may then be complete."""
    lease = Lease(artifact)
    lease.wait_for(reporter, title)
    if artifact.done:
        yield
        return
    done = threading.Event()

    def renew() -> None:
        while not done.wait(1.0):
            lease.renew()

    renewer = threading.Thread(target=renew, daemon=True)
    renewer.start()
    try:
        yield
    finally:
        done.set()
        renewer.join()
        lease.release()


def _expired(lease: dict[str, Any]) -> bool:
    if lease["machine"] == _machine():
        return start_time(lease["pid"]) != lease["started"]
    return time.time() - lease["at"] > STALE_AFTER_S


def _machine() -> str:
    """Host name, boot id and PID namespace: containers may share a host name."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    words = [platform.node(), boot.read_text().strip() if boot.exists() else ""]
    return "/".join([*words, str(namespace.readlink()) if namespace.exists() else ""])
