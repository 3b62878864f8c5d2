"""CIFAR-10 as its authors publish it: the binary and the Python version, as the archive or unpacked (Krizhevsky, 2009)."""

import io
from collections.abc import Container, Iterator
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Self

import numpy as np

from side_ray.errors import UserError
from side_ray.sources.base import Place, Record, Role, Source, Unit
from side_ray.sources.reading.files import Files
from side_ray.sources.reading.pickles import Refused, load_batch
from side_ray.sources.reading.tars import DAMAGED, members

TRAINING = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST = ("test_batch",)
CLASSES = 10
PIXELS = 32 * 32 * 3
"""Bytes of one image."""
LARGEST_BATCH = 512 << 20


class CifarSource(Source):
    """One unit per batch file. Labels are the class numbers 0 … 9.

    Args:
        role: `members` are the five training batches, `unseen` is the test batch.
    """

    splits_one_path = True
    side = 32

    def __init__(self, files: Files, role: Role, labels: bool) -> None:
        self.files, self.role, self.labels = files, role, labels
        self.uri = files.uri
        self.wanted = {"all": TRAINING + TEST, "members": TRAINING, "unseen": TEST}[role]

    @classmethod
    def open(cls, place: Place, options: Any) -> Self:
        return cls(place.files(), place.role, place.labels)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "found"}

    @property
    def labelled(self) -> bool:
        return self.labels

    @cached_property
    def found(self) -> dict[str, tuple[str, int]]:
        """Name in the archive or directory, and size in bytes, of each batch, by the batch's name.

        Raises:
            UserError: batches are missing, or the archive is not a tar file.
        """
        every = self._archived() if self.files.only else self._unpacked()
        batches: dict[str, tuple[str, int]] = {}
        for name, size in every:
            stem = PurePosixPath(name).name.removesuffix(".bin")
            if stem in self.wanted:
                if stem in batches:
                    raise UserError(
                        f"{self.uri} holds {stem} twice ({batches[stem][0]}, {name}); "
                        "give the directory of one version",
                        "data.path",
                    )
                batches[stem] = (name, size)
        missing = [stem for stem in self.wanted if stem not in batches]
        if missing:
            raise UserError(
                f"{self.uri} lacks CIFAR-10's {', '.join(missing)}; give cifar-10-python.tar.gz, "
                "cifar-10-binary.tar.gz or the directory that one of them unpacks to",
                "data.path",
            )
        return {stem: batches[stem] for stem in self.wanted}

    def _unpacked(self) -> list[tuple[str, int]]:
        names, sizes, _ = self.files.listing()
        return list(zip(names.to_pylist(), sizes.tolist(), strict=True))

    def _archived(self) -> list[tuple[str, int]]:
        try:
            with self.files.open(str(self.files.only)) as file:
                return [(member.name, member.size) for member in members(file) if member.is_file]
        except DAMAGED as error:
            raise self._damaged(error) from None

    def _damaged(self, error: object) -> UserError:
        return UserError(f"{self.uri} is not a whole tar archive ({error}); get it again", "data.path")

    def count(self) -> int | None:
        """Known from the file sizes of the binary version; the Python version has to be read."""
        if all(name.endswith(".bin") for name, _ in self.found.values()):
            return sum(size // (1 + PIXELS) for _, size in self.found.values())
        return None

    def units(self) -> Iterator[Unit]:
        return ({"batch": stem, "name": name} for stem, (name, _) in self.found.items())

    def read(self, unit: Unit, only: Container[int] | None = None) -> Iterator[Record]:
        """The images of one batch, `name` being `batch/number`.

        Raises:
            UserError: the batch is damaged, of another data set, or a pickle that names more than arrays.
        """
        name = unit["name"]
        data = self._bytes(name)
        pixels, labels = self._binary(name, data) if name.endswith(".bin") else self._python(name, io.BytesIO(data))
        images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield Record(f"{unit['batch']}/{number}", np.ascontiguousarray(image), str(label) if self.labels else None)

    def _bytes(self, name: str) -> bytes:
        if not self.files.only:
            return self.files.store.read(name)
        try:
            with self.files.open(self.files.only) as file:
                return next(member.read(LARGEST_BATCH) for member in members(file) if member.name == name)
        except DAMAGED as error:
            raise self._damaged(error) from None

    def _binary(self, name: str, data: bytes) -> tuple[np.ndarray, list[int]]:
        if not data or len(data) % (1 + PIXELS):
            raise UserError(
                f"{name} in {self.uri} has {len(data):,} bytes, not a multiple of {1 + PIXELS}: it is truncated "
                "or not CIFAR-10's; get it again",
                "data.path",
            )
        rows = np.frombuffer(data, np.uint8).reshape(-1, 1 + PIXELS)
        return rows[:, 1:], self._checked(name, rows[:, 0].tolist())

    def _python(self, name: str, file: BinaryIO) -> tuple[np.ndarray, list[int]]:
        try:
            batch = load_batch(file)
        except Refused as error:
            raise UserError(
                f"{name} in {self.uri} is not a batch of CIFAR-10: {error}; get it again", "data.path"
            ) from None
        pixels, labels = batch.get(b"data"), batch.get(b"labels")
        if (
            not isinstance(pixels, np.ndarray)
            or pixels.ndim != 2
            or pixels.shape[1] != PIXELS
            or not isinstance(labels, list)
            or len(labels) != len(pixels)
        ):
            raise UserError(
                f"{name} in {self.uri} has no images of 32×32 with a label each in data and labels; "
                "give CIFAR-10's own batches",
                "data.path",
            )
        return pixels, self._checked(name, labels)

    def _checked(self, name: str, labels: list[Any]) -> list[int]:
        wrong = next((label for label in labels if not isinstance(label, int) or not 0 <= label < CLASSES), None)
        if wrong is not None:
            raise UserError(
                f"{name} in {self.uri} has the label {wrong!r}, not 0 … 9: it is damaged or not "
                "CIFAR-10's; get it again",
                "data.path",
            )
        return labels

    def identity(self) -> str:
        return f"{self.role}/{self.files.identity()}"
