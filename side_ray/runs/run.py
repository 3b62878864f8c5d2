"""The run directory: artifacts under fingerprints, markers of what is done, and what the last run used."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from side_ray.storage import Store

DONE = "_done.json"
LATEST = "latest.json"


def fingerprint(*parts: Any) -> str:
    """Twelve hex digits that change whenever one of the JSON-able `parts` does (first 48 bits of a SHA-256)."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Artifact:
    """The output of one stage: a directory of the run that is named by what it depends on."""

    store: Store
    key: str
    """Path relative to the run, for example `prepare/ab12cd34ef56`."""

    @property
    def fingerprint(self) -> str:
        return self.key.split("/")[1]

    def child(self, name: str) -> "Artifact":
        return Artifact(self.store, f"{self.key}/{name}")

    @property
    def done(self) -> bool:
        return self.store.exists(f"{self.key}/{DONE}")

    def finish(self, **info: Any) -> None:
        """Mark as complete. To be called last, when everything else is written."""
        self.write_json(DONE, info)

    def info(self) -> dict[str, Any]:
        """What `finish` was given.

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
        """The artifact of `stage` that depends on `parts` (its config, its inputs' fingerprints, its version)."""
        return Artifact(self.store, f"{stage}/{fingerprint(stage, *parts)}")

    def latest(self) -> dict[str, Any]:
        """What the last run used, as paths relative to the run directory; empty where nothing ran yet."""
        try:
            return json.loads(self.store.read(LATEST))
        except FileNotFoundError:
            return {}

    def point_latest(self, **entries: Any) -> None:
        """Replace entries of `latest.json`: a path, or a dict of condition names to paths."""
        self.store.write(LATEST, json.dumps({**self.latest(), **entries}, indent=1, sort_keys=True).encode())


def read_progress(artifact: Artifact) -> dict[str, Any]:
    """Where a training stands: `step`, `steps`, `loss`, `rate` (steps/s), `at` (seconds since 1970); empty at first."""
    try:
        return artifact.read_json(PROGRESS)
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


PROGRESS = "_progress.json"
