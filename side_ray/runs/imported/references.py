"""Weights that a run refers to where they lie, because they are too large to copy: their places, sizes and SHA-256, and the proof
that they are still the same, without which they are not opened.
"""

import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from side_ray.errors import NotThere, UserError
from side_ray.runs.imported.hub import cached_file, is_on_hub
from side_ray.storage import open_store
from side_ray.storage.cache import cached_dir
from side_ray.storage.digests import file_digest

FILE = "references.json"
"""In the directory of a model: the weights that are not copied into it."""


@dataclass(frozen=True)
class Reference:
    """One file: its absolute path, `s3://…`, or `hf://owner/name@commit/…`; its size in bytes, and its SHA-256."""

    at: str
    size: int
    sha256: str

    @property
    def in_object_storage(self) -> bool:
        return "://" in self.at and not is_on_hub(self.at)


@dataclass(frozen=True)
class References:
    """The files of a model that are not in the run, by their path in its directory.

    Attributes:
        root: the directory of the model in object storage; "" for any other.
        read: of that directory, all files that are read, which a node downloads together.
        storage: how the object storage is reached, arguments of `open_store`.
    """

    files: Mapping[str, Reference]
    root: str = ""
    read: Sequence[str] = ()
    storage: Mapping[str, Any] | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        files = {name: Reference(**each) for name, each in value["files"].items()}
        return cls(files, value["root"], value["read"], value["storage"])

    def to_json(self) -> dict[str, Any]:
        files = {name: asdict(each) for name, each in self.files.items()}
        return {"files": files, "root": self.root, "read": list(self.read), "storage": self.storage}

    def only(self, wanted: Callable[[str], bool]) -> "References":
        """Those whose place is `wanted`."""
        files = {name: each for name, each in self.files.items() if wanted(each.at)}
        return References(files, self.root, self.read, self.storage)

    def check(self) -> dict[str, Path]:
        """The local files, after the proof that each is still the one that the run refers to: its size every time, and its
        SHA-256, which is computed once per node as long as size, times and inode stay. From object storage and the hub they are
        fetched, once per node.

        Raises:
            UserError: one is not there, or has changed. The message names it.
            RunError: the storage or the hub cannot be reached.
        """
        return dict(self._checked())

    def check_local(self) -> None:
        """`check`, of what others can change while a model is open; downloads from object storage are this program's own."""
        References({name: each for name, each in self.files.items() if not each.in_object_storage}).check()

    def directory(self, beside: Path) -> Path:
        """A directory of links to the files in `beside` and to the referenced ones. Raises what `check` does."""
        targets = {path.relative_to(beside).as_posix(): path for path in beside.rglob("*") if path.is_file()}
        targets |= self.check()
        places = {name: str(path.absolute()) for name, path in sorted(targets.items())}

        def link(directory: Path) -> None:
            for name, place in places.items():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                (directory / name).symlink_to(place)

        return cached_dir(json.dumps(["links", places]), link, float("inf"))

    def _checked(self) -> Iterator[tuple[str, Path]]:
        stored = {name: each for name, each in self.files.items() if each.in_object_storage}
        if stored:
            yield from self._downloaded(stored)
        for name, each in self.files.items():
            if name not in stored:
                path = cached_file(each.at) if is_on_hub(each.at) else Path(each.at)
                if wrong := _wrong(path, each):
                    raise _refused(each, *wrong)
                yield name, path

    def _downloaded(self, stored: Mapping[str, Reference]) -> Iterator[tuple[str, Path]]:
        store = open_store(self.root, key="dpm.path", **(self.storage or {}))
        sizes = {entry.key: entry.size for entry in store.list()}
        for name, each in stored.items():
            if name not in sizes:
                raise _refused(each, "is not there", missing=True)
            if sizes[name] != each.size:
                raise _refused(each, _other_size(sizes[name], each))
        for fresh in (False, True):  # a download that was kept may be what is damaged
            try:
                directory = store.fetch_dir("", fresh, only=self.read)
            except FileNotFoundError:
                raise _refused(next(iter(stored.values())), "is not there", missing=True) from None
            found = {name: _wrong(directory / name, each) for name, each in stored.items()}
            if not any(found.values()):
                break
        for name, each in stored.items():
            if wrong := found[name]:
                raise _refused(each, *wrong)
            yield name, directory / name


def _wrong(path: Path, known: Reference) -> tuple[str, bool] | None:
    """What is wrong with a file, and whether it is not there; None if it is the one that is known."""
    try:
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return "is not there", True
    except OSError as error:
        return f"cannot be read ({error.strerror or error})", True
    if size != known.size:
        return _other_size(size, known), False
    digest = file_digest(path)
    if not digest:
        return "cannot be read", True
    if digest != known.sha256:
        return f"has changed (SHA-256 {digest[:12]}… in place of {known.sha256[:12]}…)", False
    return None


def _other_size(size: int, known: Reference) -> str:
    return f"has changed ({size:,} bytes in place of {known.size:,})"


def _refused(known: Reference, wrong: str, missing: bool = False) -> UserError:
    kind = NotThere if missing else UserError
    remedy = "put the same file back"
    if is_on_hub(known.at):
        remedy = "delete it from the hub's cache there, so that it is fetched again,"
    elif missing:
        remedy = "put the same file back where every node sees it, give its new place as dpm.path,"
    return kind(
        f"{known.at} {wrong} (seen from {socket.gethostname()}); the run refers to these weights of its model and has no copy: "
        f"{remedy} or start again with another run.uri"
    )
