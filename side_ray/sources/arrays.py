"""Images in NumPy files: .npy, or .npz as guided-diffusion writes its samples (`arr_0` images, `arr_1` labels)."""

import zipfile
import zlib
from collections.abc import Container, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import IO, Any, NamedTuple, Self

import numpy as np
from numpy.lib import format as npy

from side_ray.errors import UserError, first_line
from side_ray.sources.base import UNIT_IMAGES, Place, Record, Source, Tally, Unit, rest_of, slices
from side_ray.sources.reading.files import LARGEST_IMAGE, Files, Unreadable

IMAGES, LABELS = "arr_0", "arr_1"
DAMAGED = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, Unreadable)


class _Array(NamedTuple):
    """An array in a file: the name of its entry in a .npz ("" in a .npy), its shape and its dtype."""

    entry: str
    shape: tuple[int, ...]
    dtype: np.dtype


class ArraySource(Source):
    """One unit per thousand images. An array of images is [N, H, W, C] with C of 1 or 3, or [N, H, W]. No pickle is read.

    In a .npz the images are `arr_0`, else the only array of such a shape; the labels are `arr_1`, else the only array of N
    integers.
    """

    file_pattern = r"\.(npy|npz)$"

    def __init__(self, files: Files, labels: bool = True, unit_images: int = UNIT_IMAGES) -> None:
        self.files, self.labels, self.unit_images = files, labels, unit_images
        self.uri = files.uri

    @classmethod
    def recognizes(cls, files: Files) -> bool:
        try:
            return super().recognizes(files) and bool(cls(files).parts)
        except UserError:
            return files.only is not None

    @classmethod
    def open(cls, place: Place, options: Any) -> Self:
        return cls(place.files(), place.labels)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "parts"}

    @cached_property
    def parts(self) -> list[tuple[str, _Array, _Array | None]]:
        """Name, array of images and array of labels of every file; only headers are read.

        Raises:
            UserError: there is no such file, or one is damaged or holds no array of images.
        """
        names = self.files.listing().matching(self.file_pattern).names.to_pylist()
        if not names:
            raise UserError(f"there is no .npy or .npz file in {self.uri}; check the path", "data.path")
        found = [(name, *self._choose(name, self._arrays(name))) for name in names]
        with_labels = [labels is not None for _, _, labels in found]
        if any(with_labels) and not all(with_labels):
            raise UserError(f"only some of the files in {self.uri} have labels; set data.labels=false", "data.labels")
        return found

    def _arrays(self, name: str) -> list[_Array]:
        try:
            with self.files.open(name) as file:
                packed = file.read(4) == b"PK\x03\x04"
                file.seek(0)
                if not packed:
                    return [_Array("", *_header(file))]
                arrays = []
                with zipfile.ZipFile(file) as archive:
                    for entry in archive.namelist():
                        with archive.open(entry) as inner:
                            arrays.append(_Array(entry, *_header(inner)))
                return arrays
        except DAMAGED as error:
            raise self._damaged(name, error) from None

    def _damaged(self, name: str, error: Exception) -> UserError:
        reason = " ".join(str(error).split())[:120]
        return UserError(f"{name} in {self.uri} is not a whole NumPy file ({reason}); get it again", "data.path")

    def _choose(self, name: str, arrays: list[_Array]) -> tuple[_Array, _Array | None]:
        possible = [each for each in arrays if _holds_images(each)]
        named = [each for each in possible if each.entry == f"{IMAGES}.npy"]
        if len(named or possible) != 1:
            held = ", ".join(f"{each.entry.removesuffix('.npy')}{list(each.shape)} {each.dtype}" for each in arrays[:4])
            raise UserError(
                f"{name} in {self.uri} holds {len(possible) or 'no'} arrays of images ({held}); give one of shape "
                "[N, H, W, 3], [N, H, W, 1] or [N, H, W], called arr_0",
                "data.path",
            )
        (images,) = named or possible
        if int(np.prod(images.shape[1:], dtype=object)) * images.dtype.itemsize > LARGEST_IMAGE:
            raise UserError(f"the images of {name} in {self.uri} are too large ({list(images.shape)})", "data.path")
        rows = [each for each in arrays if each.shape == images.shape[:1] and each.dtype.kind in "iu"]
        labels = [each for each in rows if each.entry == f"{LABELS}.npy"] or rows
        return images, labels[0] if self.labels and len(labels) == 1 else None

    @property
    def labelled(self) -> bool:
        return self.parts[0][2] is not None

    def count(self) -> int | None:
        return sum(images.shape[0] for _, images, _ in self.parts)

    def units(self) -> Iterator[Unit]:
        for name, images, labels in self.parts:
            for rows in slices(images.shape[0], self.unit_images):
                unit = {"name": name, "entry": images.entry, "first": rows.start, "rows": rows.stop - rows.start}
                yield unit if labels is None else {**unit, "labels": labels.entry}

    def read(self, unit: Unit, only: Container[int] | None = None) -> Iterator[Record]:
        """The images of one unit, called `file#row`."""
        name, first, rows = unit["name"], unit["first"], unit["rows"]
        labels: Any = [None] * rows
        try:
            if "labels" in unit:
                labels = list(self._rows(name, unit["labels"], first, rows))
            for row, image in enumerate(self._rows(name, unit["entry"], first, rows)):
                label = None if labels[row] is None else str(labels[row])
                yield Record(f"{name}#{first + row}", image[:, :, 0] if image.shape[2:] == (1,) else image, label)
        except DAMAGED as error:
            raise self._damaged(name, error) from None

    def _rows(self, name: str, entry: str, first: int, rows: int) -> Iterator[np.ndarray]:
        """Consecutive items of an array, read one after the other."""
        with self._open(name, entry) as file:
            shape, dtype = _header(file)
            size = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
            file.seek(first * size, 1)
            for _ in range(rows):
                data = file.read(size)
                if len(data) < size:
                    raise EOFError("it is truncated")
                yield np.frombuffer(data, dtype).reshape(shape[1:])

    @contextmanager
    def _open(self, name: str, entry: str) -> Iterator[IO[bytes]]:
        with self.files.open(name) as file:
            if not entry:
                yield file
                return
            with zipfile.ZipFile(file) as archive, archive.open(entry) as inner:
                yield inner

    def size(self, unit: Unit) -> int:
        return int(unit["rows"])

    def left_out(self) -> Tally:
        return rest_of(self.files, self.file_pattern)

    def identity(self) -> str:
        return self.files.identity()


def _holds_images(array: _Array) -> bool:
    channels = array.shape[3:] in ((), (1,), (3,))
    return len(array.shape) in (3, 4) and channels and array.dtype.kind in "uif" and min(array.shape) > 0


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of a .npy file; the file stands at the data then. Raises ValueError for pickles and Fortran order."""
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"its format version {version} is unknown")
    try:
        shape, fortran, dtype = read(file)
    except (UserError, OSError, ValueError):
        raise
    except Exception as error:  # NumPy reads the header as Python code, and lets that parser's errors through
        raise ValueError(f"its header is damaged: {first_line(error)}") from None
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    if fortran and len(shape) > 1:
        raise ValueError("it is in Fortran order; save it with numpy.ascontiguousarray")
    return shape, dtype
