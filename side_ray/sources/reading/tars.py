"""Reads tar files sequentially, compressed or not, and detects truncation."""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Self

DAMAGED = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)
"""Exceptions that a damaged archive raises."""
GZIP = b"\x1f\x8b"
BLOCK = 1 << 20


class _Strict(tarfile.TarInfo):
    """A header whose absence or damage is an error. The standard library takes it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"it is truncated or not a tar archive: {error}") from None


class Member:
    """One file of an archive. It must be read before the next one is requested."""

    def __init__(self, archive: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        self._archive, self._info = archive, info
        self.name, self.size = info.name, info.size

    def read(self, most: int) -> bytes:
        """Its content. Raises one of `DAMAGED` if it is truncated or larger than `most` bytes."""
        if self.size > most:
            raise tarfile.ReadError(f"{self.name} has {self.size:,} bytes, more than the {most:,} that are expected")
        file = self._archive.extractfile(self._info)
        data = file.read() if file else b""
        if len(data) != self.size:
            raise EOFError(f"{self.name} is truncated")
        return data


def members(file: BinaryIO) -> Iterator[Member]:
    """The regular files of a tar or tar.gz archive in order; sparse files, links and the like are skipped.

    Raises:
        One of `DAMAGED`: the archive is truncated or damaged; for tar.gz the checksum is verified at the end.
    """
    zipped = file.read(2) == GZIP
    file.seek(0)
    stream = gzip.GzipFile(fileobj=file) if zipped else file
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Strict, bufsize=BLOCK) as archive:
        for info in archive:
            # The library keeps a list of all members, which is useless in a stream and grows with the archive.
            archive.members = []  # type: ignore[attr-defined]
            if info.isreg() and not info.issparse():
                yield Member(archive, info)
    while stream.read(BLOCK):
        pass
