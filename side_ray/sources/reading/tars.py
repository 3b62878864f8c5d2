"""Reads tar files sequentially, compressed or not, and detects truncation."""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, BinaryIO, Self

from side_ray.sources.reading.files import shown

DAMAGED = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)
"""Exceptions that a damaged archive raises."""
GZIP = b"\x1f\x8b"
BLOCK = 1 << 20


class _Strict(tarfile.TarInfo):
    """A header whose absence or damage is an error. The standard library takes it for the end of the archive.

    An end mark does not end the reading, because tar files that were joined have one after each. After a mark the file may end.
    """

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        marked = getattr(tarfile_, "marked", False)
        try:
            tarfile_.marked = False  # type: ignore[attr-defined]
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            tarfile_.marked = True  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            if marked and isinstance(error, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
                raise
            where = "it holds other data behind its end" if marked else "it is truncated or not a tar archive"
            raise tarfile.ReadError(f"{where}: {error}") from None


class Member:
    """One file of an archive. It must be read before the next one is requested.

    Attributes:
        name: its name; bytes that are not UTF-8 are shown as %XX.
        is_file: False for links, sparse files and devices, which have no content to read.
    """

    def __init__(self, archive: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        self._archive, self._info = archive, info
        self.name, self.size = shown(info.name), info.size
        self.is_file = info.isreg() and not info.issparse()
        self._file: IO[bytes] | None = None
        self._head = b""

    def head(self, size: int) -> bytes:
        """Its first bytes. It can still be read as a whole."""
        self._file = self._file or self._archive.extractfile(self._info)
        self._head = self._head or (self._file.read(size) if self._file else b"")
        return self._head

    def read(self, most: int) -> bytes:
        """Its content. Raises one of `DAMAGED` if it is truncated or larger than `most` bytes."""
        if self.size > most:
            raise tarfile.ReadError(f"{self.name} has {self.size:,} bytes, more than the {most:,} that are expected")
        self._file = self._file or self._archive.extractfile(self._info)
        data = self._head + (self._file.read() if self._file else b"")
        if len(data) != self.size:
            raise EOFError(f"{self.name} is truncated")
        return data


def members(file: BinaryIO) -> Iterator[Member]:
    """The files of a tar or tar.gz archive in order, also those of archives that were joined to it; no directories.

    Raises:
        One of `DAMAGED`: the archive is truncated or damaged; for tar.gz the checksum is verified at the end.
    """
    zipped = file.read(2) == GZIP
    file.seek(0)
    stream = gzip.GzipFile(fileobj=file) if zipped else file
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Strict, bufsize=BLOCK, ignore_zeros=True) as archive:
        for info in archive:
            # The library keeps a list of all members, which is useless in a stream and grows with the archive.
            archive.members = []  # type: ignore[attr-defined]
            if not info.isdir():
                yield Member(archive, info)
    while stream.read(BLOCK):
        pass
