"""The run directory: artifacts named by fingerprints, completion markers, and `latest.json`."""

import hashlib
import json
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from side_ray.errors import Damaged
from side_ray.runs.imported.references import FILE as REFERENCES
from side_ray.runs.imported.references import References
from side_ray.storage import Entry, Store
from side_ray.storage.sealed import digest_of, open_json, read_json, read_table, write_json, write_table

DONE, DONE_COPY = "_done.json", "_done_copy.json"
FILES, PARTS = "files", "parts"
UNLISTED = ("checkpoints/", "tensorboard/", "scan/", "curve.json", "labels.json")
"""What an artifact can be complete without."""
LATEST = "latest.json"
PAGE = "report.html"
"""A copy of the newest report's page, at the top of the run."""
PDF = "report.pdf"
"""The same as PDF, where Chromium is installed."""
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
    files: dict[str, dict[str, Any]] = field(default_factory=dict, compare=False, repr=False)
    """By name, `size` in bytes and `sha256` of what was written through this object. `finish` records them."""

    @property
    def fingerprint(self) -> str:
        return self.key.split("/")[1]

    def child(self, name: str) -> "Artifact":
        """A part of this artifact, in the subdirectory `name`."""
        return Artifact(self.store, f"{self.key}/{name}")

    @property
    def done(self) -> bool:
        """Whether the artifact is complete: it is marked so, and every file that it lists is there with its size."""
        try:
            self.check()
        except (FileNotFoundError, Damaged):
            return False
        return True

    def check(self, content: bool = False) -> None:
        """Check that the artifact is complete; with `content`, also that every file that it lists has its digest.

        Raises:
            FileNotFoundError: it is not made yet.
            Damaged: it is damaged. `doomed` includes its marks, so that it is not complete any more.
        """
        info = self._marked()[0]
        listed, parts = info.get(FILES, {}), range(info.get(PARTS, 0))
        if not listed and not parts:
            return
        sizes = {entry.key: entry.size for entry in self.store.list(self.key)}
        wrong = [key for name, known in listed.items() if sizes.get(key := f"{self.key}/{name}") != known["size"]]
        wrong += [key for part in parts if (key := f"{self.key}/{part_name(part)}") not in sizes]
        if content and not wrong:
            keys = {f"{self.key}/{name}": known["sha256"] for name, known in listed.items()}
            wrong = [key for key, digest in keys.items() if digest_of(self.store, key) != digest]
        if wrong:
            raise Damaged(wrong, "is missing or damaged", self.marks)

    @property
    def marks(self) -> list[str]:
        """The keys of the mark of completeness and of its copy."""
        return [f"{self.key}/{name}" for name in (DONE, DONE_COPY)]

    def _marked(self) -> tuple[dict[str, Any], bool]:
        """The content of the mark or, if that is missing or damaged, of its copy, and whether it is the mark itself and sealed.
        Raises what `check` does."""
        first, copy = self.marks
        info: Any = None
        wrong: Damaged | None = Damaged([first], "is damaged", [copy])
        try:
            info, sealed = open_json(first, self.store.read(first))
            if sealed:
                return info, True
        except FileNotFoundError:
            wrong = None
        except Damaged as damage:
            wrong = Damaged([first], damage.reason, [copy])
        # Every version that writes digests writes the copy too.
        with suppress(FileNotFoundError, Damaged):
            kept, sealed = open_json(copy, self.store.read(copy))
            if sealed:
                return kept, False
        if isinstance(info, dict) and FILES not in info:
            return info, False  # of an earlier version
        raise wrong or FileNotFoundError(f"{self.key} is not complete")

    def adopt(self) -> str:
        """Write the mark again if it is damaged, or if an earlier version wrote it without digests. Returns what was done, or "".

        Raises what `check` does.
        """
        info, whole = self._marked()
        if whole:
            return ""
        if FILES in info:
            write_json(self.store, self.marks[0], info)
            return f"{self.marks[0]} was missing or damaged and is restored from its copy"
        parts = 0
        for entry in self.own():
            if entry.key.endswith(".parquet"):
                read_table(self.store, entry.key)
                parts += entry.key == f"{self.key}/{part_name(parts)}"
        self.finish(**info | ({PARTS: parts} if parts else {}))
        return f"{self.key} is of an earlier version, without digests; it is accepted as it is, and its digests are recorded"

    def own(self) -> list[Entry]:
        """The files that belong to the artifact and not to another one in it, sorted by key."""
        entries = sorted(self.store.list(self.key))
        apart = [entry.key.removesuffix(DONE) for entry in entries if entry.key.endswith(f"/{DONE}")]
        apart = [each for each in apart if each != f"{self.key}/"] + [f"{self.key}/{name}" for name in ("_", *UNLISTED)]
        return [entry for entry in entries if not entry.key.startswith(tuple(apart))]

    def finish(self, **info: Any) -> None:
        """Mark as complete, with JSON-serializable facts. Call it last, after everything else is written.

        The mark is written twice, so that no damage to one small file makes a training of days start again. It lists the files
        of the artifact, but for tables, which are sealed one by one.
        """
        for entry in self.own():
            name = entry.key.removeprefix(f"{self.key}/")
            if name not in self.files and not name.endswith(".parquet"):
                self.files[name] = {"size": entry.size, "sha256": digest_of(self.store, entry.key)}
        for key in reversed(self.marks):
            write_json(self.store, key, {**info, FILES: dict(sorted(self.files.items()))})

    def digests(self) -> dict[str, str]:
        """SHA-256 of every file that the artifact lists, by key, after a check of their content; also of those that it refers
        to, which whoever opens them checks. Raises what `check` does."""
        self.check(content=True)
        found = {name: known["sha256"] for name, known in self._marked()[0].get(FILES, {}).items()}
        if references := self.references():
            found |= {name: known.sha256 for name, known in references.files.items()}
        return {f"{self.key}/{name}": digest for name, digest in found.items()}

    def references(self) -> References | None:
        """The files of the artifact that lie elsewhere; None without any, and before the artifact is complete.

        Raises:
            Damaged: its mark, or the list of these files, cannot be read.
        """
        try:
            listed = self._marked()[0].get(FILES, {})
        except FileNotFoundError:
            return None
        if REFERENCES not in listed:
            return None
        try:
            return References.from_json(self.read_json(REFERENCES))
        except FileNotFoundError:
            raise Damaged([f"{self.key}/{REFERENCES}"], "is missing", self.marks) from None
        except Damaged as damage:
            raise Damaged(damage.keys, damage.reason, self.marks) from None

    def info(self) -> dict[str, Any]:
        """The facts passed to `finish`.

        Raises:
            FileNotFoundError: the artifact is not complete.
            Damaged: the facts cannot be read.
        """
        return {name: value for name, value in self._marked()[0].items() if name != FILES}

    def fetch(self) -> Path:
        """A local directory with the files of the artifact, checked against the digests that `finish` recorded, and with links to
        those that it refers to, which are checked too.

        Raises:
            FileNotFoundError: there is nothing.
            Damaged: a file is missing or has another content.
            UserError: a file that the artifact refers to is, or cannot be fetched.
        """
        try:
            listed = self._marked()[0].get(FILES, {})
        except FileNotFoundError:
            listed = {}
        for fresh in (False, True):  # a download that was kept may be what is damaged
            directory = self.store.fetch_dir(self.key, fresh)
            wrong = [name for name, known in listed.items() if _digest(directory / name) != known["sha256"]]
            if not wrong:
                references = self.references() if REFERENCES in listed else None
                return directory if references is None else references.directory(directory)
        raise Damaged([f"{self.key}/{name}" for name in wrong], "is missing or damaged", self.marks)

    def write(self, name: str, data: bytes) -> None:
        """Write a file that `finish` will list."""
        self.store.write(f"{self.key}/{name}", data)
        self._list(name, data)

    def write_table(self, name: str, table: pa.Table, rows: int | None = None) -> None:
        """Write a sealed Parquet file that `finish` will list, with row groups of at most `rows` rows."""
        self._list(name, write_table(self.store, f"{self.key}/{name}", table, rows=rows))

    def write_json(self, name: str, value: Any, listed: bool = True) -> None:
        """Write a JSON value, an object with its seal. `listed`: without this file the artifact is not complete."""
        data = write_json(self.store, f"{self.key}/{name}", value)
        if listed and not name.startswith("_"):
            self._list(name, data)

    def put_dir(self, local: Path, without: Collection[str] = ()) -> None:
        """Copy every file below a local directory, which `finish` will list; not the marks of another artifact, nor those whose
        relative path is in `without`."""
        left_out = {DONE, DONE_COPY, *without}
        self.store.put_dir(local, self.key, without=left_out)
        for path in local.rglob("*"):
            name = path.relative_to(local).as_posix()
            if path.is_file() and name not in left_out:
                self.files[name] = {"size": path.stat().st_size, "sha256": _digest(path)}

    def _list(self, name: str, data: bytes) -> None:
        self.files[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def read_json(self, name: str) -> Any:
        """Read a JSON value, an object without its seal. Raises Damaged or FileNotFoundError."""
        return read_json(self.store, f"{self.key}/{name}")


def part_name(part: int) -> str:
    """Name of one file of a table."""
    return f"part-{part:06d}.parquet"


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


class Run:
    """A run directory in a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def artifact(self, stage: str, *parts: Any) -> Artifact:
        """The artifact of `stage` for `parts`: version, config and fingerprints of the inputs, all JSON-serializable."""
        return Artifact(self.store, f"{stage}/{fingerprint(stage, *parts)}")

    def latest(self) -> dict[str, Any]:
        """The artifacts that the last command used, as paths relative to the run directory; empty before the first one, and where
        the file is damaged: each stage then enters its own again."""
        try:
            found = json.loads(self.store.read(LATEST))
        except (FileNotFoundError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def point_latest(self, **entries: Any) -> None:
        """Replace entries of `latest.json`. A value is a path, or a dict from condition names to paths."""
        self.store.write(LATEST, json.dumps({**self.latest(), **entries}, indent=1, sort_keys=True).encode())


def condition_name(method: str, scale: float) -> str:
    """`method=…/lambda=…`, the path of a condition (method and λ) below its stage's fingerprint."""
    return f"method={method}/lambda={float(scale)}"


def read_progress(artifact: Artifact) -> dict[str, Any]:
    """Progress of a training: `step`, `steps`, `loss`, `rate` (steps/s), `at` (Unix time, s); empty before the first report."""
    try:
        found = artifact.read_json(PROGRESS)
    except (FileNotFoundError, Damaged):
        return {}
    return found if isinstance(found, dict) and found.keys() >= PROGRESS_KEYS else {}


PROGRESS = "_progress.json"
PROGRESS_KEYS = {"step", "steps", "loss", "rate", "at"}
