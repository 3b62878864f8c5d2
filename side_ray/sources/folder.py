"""Images as files: a folder with a sub-folder per class, or flat; on a disk, in object storage, or in a zip archive."""

from collections.abc import Container, Iterator
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from side_ray.errors import UserError
from side_ray.sources.base import UNIT_IMAGES, Place, Record, Source, Unit, slices
from side_ray.sources.reading.files import Files, Listing, Unreadable, ZipFiles
from side_ray.sources.reading.pixels import EXTENSIONS

_IMAGES = rf"\.({'|'.join(EXTENSIONS)})$"
_PARENT = r"(?P<parent>[^/]+)/[^/]+$"


class FolderSource(Source):
    """The class of an image is the folder that it is in; if all are in one folder there are no labels.

    Args:
        labels: whether labels are wanted.
        unit_images: images that one task reads; four times as many from an archive, because each task reads its table of
            contents.
    """

    def __init__(self, files: Files, labels: bool = True, unit_images: int = UNIT_IMAGES) -> None:
        self.files: Files | ZipFiles = files
        if files.only is not None:
            if not files.only.lower().endswith(".zip"):
                raise UserError(
                    f"{files.uri} is a file; give a directory of images or a zip archive of them", "data.path"
                )
            self.files, unit_images = ZipFiles(files, files.only), 4 * unit_images
        self.labels, self.unit_images = labels, unit_images
        self.uri = files.uri
        self._images: tuple[Listing, pa.Array | None] | None = None

    @classmethod
    def open(cls, place: Place, options: Any) -> Self:
        return cls(place.files(), place.labels)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": None}

    def images(self) -> tuple[Listing, pa.Array | None]:
        """The image files and the class of each (strings), or None without labels.

        Raises:
            UserError: there are none, or only some are in sub-folders.
        """
        if self._images is None:
            listing = self.files.listing().matching(_IMAGES)
            if not len(listing.names):
                raise UserError(
                    f"there is no image in {self.uri} (files ending in {', '.join(EXTENSIONS)}); check the path",
                    "data.path",
                )
            self._images = self._classified(listing)
        return self._images

    def _classified(self, listing: Listing) -> tuple[Listing, pa.Array | None]:
        return listing, self.parents(listing) if self.labels else None

    def parents(self, listing: Listing) -> pa.Array | None:
        """The name of the folder that each image is in; None if all are in one."""
        folders = pc.struct_field(pc.extract_regex(listing.names, _PARENT), "parent")
        if len(pc.unique(folders)) < 2:
            return None
        if folders.null_count or pc.any(pc.equal(folders, "")).as_py():
            at_top = pc.find_substring(listing.names, "/").to_numpy() < 0
            first = listing.names[int(np.flatnonzero(at_top)[0])].as_py()
            raise UserError(
                f"{self.uri} holds images in sub-folders and beside them ({first}); sort all into sub-folders, "
                "one per class, or set data.labels=false",
                "data.path",
            )
        return folders

    @property
    def labelled(self) -> bool:
        return self.images()[1] is not None

    def count(self) -> int | None:
        return len(self.images()[0].names)

    def units(self) -> Iterator[Unit]:
        listing, labels = self.images()
        for rows in slices(len(listing.names), self.unit_images):
            window = rows.start, rows.stop - rows.start
            unit = {"names": listing.names.slice(*window).to_pylist()}
            yield unit if labels is None else {**unit, "labels": labels.slice(*window).to_pylist()}

    def read(self, unit: Unit, only: Container[int] | None = None) -> Iterator[Record]:
        names = unit["names"]
        labels = unit.get("labels") or [None] * len(names)
        for position, (name, label) in enumerate(zip(names, labels, strict=True)):
            try:
                wanted = only is None or position in only
                yield Record(name, self.files.read(name) if wanted else b"", label)
            except Unreadable as error:
                yield Record(name, label=label, error=str(error))

    def size(self, unit: Unit) -> int:
        return len(unit["names"])

    def identity(self) -> str:
        return self.files.identity()
