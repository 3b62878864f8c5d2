"""The interface of a source of images: what it holds, and how it is read piece by piece, each piece by another process."""

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import numpy as np

from side_ray.config.base import Section
from side_ray.config.cluster import StorageSection
from side_ray.sources.reading.files import Files, open_files

UNIT_IMAGES = 1024
"""About how many images one task reads, where the format leaves a choice."""

FIRST_NAMES = 3
"""Names that a `Tally` keeps of each reason."""

Unit = dict[str, Any]
"""A piece of a source that can be read on its own: JSON-able, and small compared with the images in it."""

Role = Literal["all", "members", "unseen"]
"""What a source is opened for. With `data.holdout_path` there are two sources: one for the members, one for the unseen images.
Without it, `all` images come from one source."""


@dataclass(frozen=True)
class Record:
    """One image as the source holds it.

    Attributes:
        name: where in the source it is, so that a user can find it.
        content: an encoded image, or uint8 pixels [H, W, 3] or [H, W].
        label: the name of its class; None where it has none.
        error: why there is no content.
        caption: the text that belongs to it, where there is one.
        left_out: why it is not an image of the data set, such as a text file in an archive. It is counted, not refused.
    """

    name: str
    content: bytes | np.ndarray = b""
    label: str | None = None
    error: str = ""
    left_out: str = ""
    caption: str | None = None


class Tally:
    """How many files of a source are not used, by reason, with the first names of each."""

    def __init__(self) -> None:
        self.reasons: dict[str, tuple[int, list[str]]] = {}

    def add(self, reason: str, names: Iterable[str]) -> None:
        count, first = self.reasons.get(reason, (0, []))
        for name in names:
            count += 1
            if len(first) < FIRST_NAMES:
                first = [*first, name]
        if count:
            self.reasons[reason] = count, first

    @property
    def total(self) -> int:
        return sum(count for count, _ in self.reasons.values())

    def rows(self) -> list[dict[str, Any]]:
        """JSON-able: `reason`, `count` and the `first` names of each."""
        return [{"reason": reason, "count": n, "first": first} for reason, (n, first) in self.reasons.items()]

    def __str__(self) -> str:
        parts = (
            f"{count:,} {reason} ({', '.join(first)}{', …' if count > len(first) else ''})"
            for reason, (count, first) in self.reasons.items()
        )
        return "; ".join(parts)


@dataclass(frozen=True)
class Place:
    """Where a source is to be opened, and what for.

    Attributes:
        path: the value of `key`; "" for a source without a path.
        key: the config key of the path, for messages.
        labels: whether labels are wanted.
        same_path: whether the members and the unseen images have the same path (`splits_one_path`).
    """

    path: str
    key: str = "data.path"
    role: Role = "all"
    labels: bool = True
    same_path: bool = False
    storage: StorageSection = field(default_factory=StorageSection)

    def files(self, path: str | None = None, key: str | None = None) -> Files:
        """The files at the path, or at another one that is the value of `key`.

        Raises:
            UserError: nothing is there.
            RunError: the storage cannot be reached.
        """
        return open_files(path or self.path, key or self.key, self.storage.endpoint, self.storage.region)


class Source(ABC):
    """Images in one format at one place. An instance is picklable and small: it holds where the images are, not the images.

    The order of the images is that of the units and of the records in each. It depends on the content alone.
    """

    Options: ClassVar[type[Section]] = Section
    """The keys that the source adds to section `data`. Give each with `omitted_by_default`."""
    path_keys: ClassVar[frozenset[str]] = frozenset()
    """Those that are paths. `identity()` must cover the content behind them."""
    label_keys: ClassVar[frozenset[str]] = frozenset()
    """Those that are only for labels."""
    needs_path: ClassVar[bool] = True
    splits_one_path: ClassVar[bool] = False
    """Whether `data.holdout_path` may equal `data.path`, because the source itself tells members from unseen images."""
    converts: ClassVar[bool] = True
    """Whether images can be selected and converted (`config.data.IMAGE_KEYS`), or are used unchanged."""
    grayscale: ClassVar[bool] = False
    """Whether its images have one channel whatever `data.grayscale` is."""
    side: ClassVar[int | None] = None
    """Side of its images in pixels, where all are squares of that size."""
    file_pattern: ClassVar[str] = ""
    """Regular expression of the file names by which a path of this format is recognized; "" for never."""

    uri: str

    @classmethod  # noqa: B027 (most need no check)
    def check_section(cls, section: Any) -> None:
        """Raise ValueError (`data.key: message`) for values of the `DataSection` that do not go together."""

    @classmethod
    def recognizes(cls, files: Files) -> bool:
        """Whether files are images in this format, so that the source can be chosen for a path."""
        return bool(cls.file_pattern) and len(files.listing().matching(cls.file_pattern).names) > 0

    @classmethod
    @abstractmethod
    def open(cls, place: Place, options: Any) -> Self:
        """The images at a place.

        Args:
            options: an instance of `Options`.

        Raises:
            UserError: nothing is there, or it is not of this format.
            RunError: the storage cannot be reached.
        """

    @property
    @abstractmethod
    def labelled(self) -> bool:
        """Whether its records have labels."""

    @abstractmethod
    def count(self) -> int | None:
        """How many images it holds; None where only reading all of it can tell."""

    @abstractmethod
    def units(self) -> Iterator[Unit]:
        """Its pieces. Raises UserError where the source is not of this format, or a part is missing."""

    @abstractmethod
    def read(self, unit: Unit, only: Container[int] | None = None) -> Iterator[Record]:
        """The images of one piece, one after the other; an image that cannot be read is a record with `error`.

        Args:
            only: positions in the piece that are needed; the records at others may come without content.
        """

    def size(self, unit: Unit) -> int:
        """Number of images in one piece, where it is known without reading them."""
        raise NotImplementedError(f"{type(self).__name__} does not know before it reads")

    def left_out(self) -> Tally:
        """What is at its place and is not read, as far as that is known without reading it all."""
        return Tally()

    def doubt(self) -> str:
        """What makes it doubtful that the model was trained on all of it, for a warning; "" if nothing does."""
        return ""

    @abstractmethod
    def identity(self) -> str | None:
        """A string that changes with the content, but not with its location; None where the config alone determines the
        content. The fingerprint of the prepared images includes it."""


def newest_of(source: Source) -> float:
    """When the newest file of a source was modified, Unix time in s; infinity where that is not known."""
    files = getattr(source, "files", None)
    return float("inf") if files is None else float(files.newest())


def slices(total: int, size: int = UNIT_IMAGES) -> Iterator[slice]:
    """0 … `total` in consecutive slices of at most `size`."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def rest_of(files: Files, pattern: str) -> Tally:
    """The files of a listing that do not match the pattern of a format, or are hidden."""
    tally, listing = Tally(), files.listing()
    tally.add("hidden", listing.hidden)
    read = set(listing.matching(pattern).names.to_pylist())
    tally.add("other files", (name for name in listing.names.to_pylist() if name not in read))
    return tally
