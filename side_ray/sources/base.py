"""What every source of images can do: say what it holds, and be read piece by piece, each piece by another process."""

from abc import ABC, abstractmethod
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

UNIT_IMAGES = 1024
"""About how many images one task reads, where the format leaves a choice."""

Unit = dict[str, Any]
"""A piece of a source that can be read on its own: JSON-able, and small against the images in it."""

Role = Literal["all", "members", "unseen"]
"""Which images of a data path are meant: all, those that the DPM is trained on, or those kept from it."""


@dataclass(frozen=True)
class Record:
    """One image as the source holds it.

    Attributes:
        name: where in the source it is, for a person to find it.
        content: an encoded image, or uint8 [H, W, 3] pixels.
        label: the name of its class; None where it has none.
        error: why there is no content.
    """

    name: str
    content: bytes | np.ndarray = b""
    label: str | None = None
    error: str = ""


class Source(ABC):
    """Images in one format at one place. Picklable and cheap to pickle; a further format is one subclass.

    The order of the images is that of the units and of the records in each, and depends on the content alone.
    """

    uri: str

    @property
    @abstractmethod
    def labelled(self) -> bool:
        """Whether its images are to have labels."""

    @abstractmethod
    def count(self) -> int | None:
        """How many images it holds, None where only reading it all can tell."""

    @abstractmethod
    def units(self) -> Iterator[Unit]:
        """Its pieces. Raises UserError where the source is not of this format, or a part is missing."""

    @abstractmethod
    def read(self, unit: Unit, only: Container[int] | None = None) -> Iterator[Record]:
        """The images of one piece, one after the other; what cannot be read is a record with `error`.

        Args:
            only: positions in the piece that matter; the records at others may come without content.
        """

    def size(self, unit: Unit) -> int:
        """Images of one piece, where it is known without reading them."""
        raise NotImplementedError(f"{type(self).__name__} does not know before it reads")

    @abstractmethod
    def identity(self) -> str:
        """A string that changes when the content does, and does not when the same content lies elsewhere."""


def slices(total: int, size: int = UNIT_IMAGES) -> Iterator[slice]:
    """`total` rows in runs of `size`."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))
