"""The run directory: artifacts named by fingerprints, completion markers, and `latest.json`."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from side_ray.storage import Store

DONE = "_done.json"
LATEST = "latest.json"
PAGE = "report.html"
"""A copy of the newest report's page, at the top of the run."""
PURGED = "purged.json"
"""When the run's images were removed; absent if they never were, or if a later command made them again."""


def fingerprint(*parts: Any) -> str:
    """Twelve hex digits, the first 48 bits of a SHA-256 of the JSON-serializable `parts`."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Artifact:
    """The output of one stage: a directory of the run, named by the fingerprint of all that it depends on."""

    store: Store
    key: str
    """Path relative to the run, for example `prepare/ab12cd34ef56`."""

    @property
    def fingerprint(self) -> str:
        return self.key.split("/")[1]

    def child(self, name: str) -> "Artifact":
        """A part of this artifact, in the subdirectory `name`."""
        return Artifact(self.store, f"{self.key}/{name}")

    @property
    def done(self) -> bool:
        """Whether the artifact is complete."""
        return self.store.exists(f"{self.key}/{DONE}")

    def finish(self, **info: Any) -> None:
        """Mark as complete, with JSON-serializable facts. Call it last, after everything else is written."""
        self.write_json(DONE, info)

    def info(self) -> dict[str, Any]:
        """The facts passed to `finish`.

        Raises:
            FileNotFoundError: the artifact is not complete.
        """
        return self.read_json(DONE)

    def write_json(self, name: str, value: Any) -> None:
        self.store.write(f"{self.key}/{name}", json.dumps(value, indent=1, allow_nan=False).encode())

    def read_json(self, name: str) -> Any:
        return json.loads(self.store.read(f"{self.key}/{name}"))


class Run:
    """A run directory in a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def artifact(self, stage: str, *parts: Any) -> Artifact:
        """The artifact of `stage` for `parts`: version, config and fingerprints of the inputs, all JSON-serializable."""
        return Artifact(self.store, f"{stage}/{fingerprint(stage, *parts)}")

    def latest(self) -> dict[str, Any]:
        """The artifacts that the last command used, as paths relative to the run directory; empty before the first one."""
        try:
            return json.loads(self.store.read(LATEST))
        except FileNotFoundError:
            return {}

    def point_latest(self, **entries: Any) -> None:
        """Replace entries of `latest.json`. A value is a path, or a dict from condition names to paths."""
        self.store.write(LATEST, json.dumps({**self.latest(), **entries}, indent=1, sort_keys=True).encode())


def condition_name(method: str, scale: float) -> str:
    """`method=…/lambda=…`, the path of a condition (method and λ) below its stage's fingerprint."""
    return f"method={method}/lambda={float(scale)}"


def read_progress(artifact: Artifact) -> dict[str, Any]:
    """Progress of a training: `step`, `steps`, `loss`, `rate` (steps/s), `at` (Unix time, s); empty before the first report."""
    try:
        return artifact.read_json(PROGRESS)
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


PROGRESS = "_progress.json"
