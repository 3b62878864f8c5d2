"""Files of image encoders: what kind they are, and which other files they read.

TorchScript is a program that can read and write files. ONNX only computes, but its weights may lie in other files, whose names
are in the model: only those in its own folder are read.
"""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

import numpy as np

from side_ray.errors import NotThere, UserError

Kind = Literal["onnx", "torchscript"]

_ZIP = b"PK\x03\x04"
_ORT = b"ORTM"
_DEEPEST = 64
# Fields of ONNX's messages (onnx.proto) that lead to tensors, by message and number.
_FIELDS = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}


def checked_kind(path: Path, key: str, trusted: bool) -> Kind:
    """The kind of a file of weights, by its content.

    Args:
        key: its config key, `section.name`; the permission to run it is `section.trust_name`.
        trusted: that permission.

    Raises:
        UserError: there is no such file, it is TorchScript that is not trusted, or ONNX that reads files outside its folder.
    """
    if not path.is_file():
        raise NotThere(f"{path} is not a file; give the path of weights in ONNX or TorchScript", key)
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(_ZIP):
        if not trusted:
            section, _, name = key.partition(".")
            raise UserError(
                f"{path} is TorchScript, a program that can read and write files; give an ONNX export, or set "
                f"{section}.trust_{name}=true if you trust where it comes from",
                key,
            )
        return "torchscript"
    if head[4:8] == _ORT:
        raise UserError(f"{path} is in ONNX Runtime's own format; give the ONNX model that it was made of", key)
    external_files(path, key)
    return "onnx"


def digest(path: Path) -> str:
    """SHA-256 of a file of weights and, if it is ONNX, of the files that its weights lie in. Raises OSError."""
    with path.open("rb") as file:
        whole = hashlib.file_digest(file, "sha256")
    try:
        others = external_files(path, "")
    except UserError:  # no ONNX, or one that is not going to be loaded
        others = []
    for other in others:
        with other.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def external_files(path: Path, key: str) -> list[Path]:
    """The other files that an ONNX model reads its weights from, sorted.

    Raises:
        UserError: one is not a plain file in the model's folder, or the file is not ONNX.
    """
    try:
        # Mapped, not read: the file may have 2 GiB.
        names = set(_locations(np.memmap(path, np.uint8, "r").data, "Model", 0))
    except (ValueError, IndexError, OSError) as error:
        raise UserError(f"{path} is not an ONNX model ({error}); check the file", key) from None
    found = {name: _plain_file(path.parent, name) for name in sorted(names)}
    for name, place in found.items():
        if place is None:
            raise UserError(
                f"{path} reads weights from {name[:80]!r}, which is no plain file in its folder; export it as one file, or put "
                "its files into one folder, without links",
                key,
            )
    return [place for place in found.values() if place]


def _plain_file(folder: Path, name: str) -> Path | None:
    """A file in a folder, or None if the name leads elsewhere or over a link."""
    parts = PurePosixPath(name).parts
    if PureWindowsPath(name).anchor or name.startswith("/") or ".." in parts or "\\" in name:
        return None
    places = [folder.joinpath(*parts[: number + 1]) for number in range(len(parts))]
    with suppress(OSError, ValueError):  # a name that no file has
        if places and places[-1].is_file() and not any(place.is_symlink() for place in places):
            return places[-1]
    return None


def _locations(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    """The names of files in a message in Protocol Buffers' encoding. Raises ValueError or IndexError if it is damaged."""
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    for number, content in _fields(message):
        inner = _FIELDS[kind].get(number)
        if inner == "Entry":
            entry = {field: bytes(value) for field, value in _fields(content)}
            if entry.get(1) == b"location":
                yield entry.get(2, b"").decode("utf-8", "backslashreplace")
        elif inner:
            yield from _locations(content, inner, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The fields of a message that have a length, by number."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 2:
            size, at = _varint(message, at)
            if at + size > len(message):
                raise ValueError("it is truncated")
            yield number, message[at : at + size]
            at += size
        elif wire == 0:
            _, at = _varint(message, at)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError("it is damaged")
    if at != len(message):
        raise ValueError("it is truncated")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("it is damaged")
