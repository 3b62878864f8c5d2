"""Images as files: a folder with a sub-folder per class, or flat; on a disk, in object storage, or in a zip archive.

The content decides what is an image, not the extension. Labels and captions of a manifest (EDM's dataset.json, Hugging Face's
metadata.jsonl) come before the names of folders; without them, a `.txt` or `.caption` of an image's name holds its caption.
"""

import re
from collections.abc import Container, Iterable, Iterator
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from side_ray.config.base import Section
from side_ray.errors import UserError
from side_ray.sources.base import UNIT_IMAGES, Place, Record, Role, Source, Tally, Unit, slices
from side_ray.sources.reading.files import Files, Listing, Unreadable, ZipFiles, mixed_splits, split_images
from side_ray.sources.reading.manifests import Manifest, read_manifests
from side_ray.sources.reading.pixels import EXTENSIONS

_PARENT = r"(?P<parent>[^/]+)/[^/]+$"
_ALWAYS_FOUND = r"\.(jpg|jpeg|png|webp|bmp|ppm|pgm|tif|tiff|gif)$"
"""What the first version took for images. Its runs keep their fingerprints where it found all of them."""


TEXT = re.compile(r"\.(txt|caption)$", re.IGNORECASE)
LONGEST_CAPTION = 1 << 16
"""Bytes of a text beside an image that are read."""


class FolderOptions(Section):
    label_column: str | None = None
    """The field of metadata.jsonl or metadata.csv that holds the label; by default `label`, if there is one."""


def texts_beside(others: Iterable[str], images: Iterable[str]) -> dict[str, str]:
    """By the name of an image, the text file beside it that differs only in its extension."""
    by_stem = {TEXT.sub("", name): name for name in others if TEXT.search(name)}
    stems = ((name, name.rpartition(".")[0]) for name in images)
    return {name: by_stem[stem] for name, stem in stems if stem in by_stem}


class FolderSource(Source):
    """The class of an image is that of a manifest beside it, else the folder that it is in; if all are in one folder there are
    no labels.

    Args:
        labels: whether labels are wanted.
        unit_images: images that one task reads; four times as many from an archive, because each task reads its table of
            contents.
        label_field: the field of the label in a manifest.
    """

    Options: ClassVar[type[Section]] = FolderOptions
    label_keys: ClassVar[frozenset[str]] = frozenset({"label_column"})
    role: Role = "all"

    def __init__(
        self, files: Files, labels: bool = True, unit_images: int = UNIT_IMAGES, label_field: str | None = None
    ) -> None:
        self.files: Files | ZipFiles = files
        if files.only is not None:
            if not files.only.lower().endswith(".zip"):
                raise UserError(
                    f"{files.uri} is a file; give a directory of images or a zip archive of them", "data.path"
                )
            self.files, unit_images = ZipFiles(files, files.only), 4 * unit_images
        self.labels, self.unit_images = labels, unit_images
        self.uri, self.label_field = files.uri, label_field
        self._images: tuple[Listing, pa.Array | None] | None = None
        self._tally, self._manifest, self._changed = Tally(), Manifest(), False
        self._texts: dict[str, str] = {}

    @classmethod
    def open(cls, place: Place, options: Any) -> Self:
        source = cls(place.files(), place.labels, label_field=getattr(options, "label_column", None))
        source.role = place.role
        return source

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": None, "_manifest": Manifest(), "_texts": {}}

    def images(self) -> tuple[Listing, pa.Array | None]:
        """The image files and the class of each (strings), or None without labels.

        Raises:
            UserError: there are none, or only some are in sub-folders.
        """
        if self._images is None:
            found, every = split_images(self.files, EXTENSIONS)
            listing, others = every.take(np.flatnonzero(found)), every.take(np.flatnonzero(~found))
            self._manifest = read_manifests(self.files, every, self.label_field)
            self._tally = Tally()
            self._tally.add("hidden", every.hidden)
            self._tally.add("links to nothing", others.take(np.flatnonzero(others.sizes < 0)).names.to_pylist())
            rest = others.take(np.flatnonzero(others.sizes >= 0)).names.to_pylist()
            self._texts = texts_beside(rest, listing.names.to_pylist()) if any(map(TEXT.search, rest)) else {}
            captions = set(self._texts.values())
            self._tally.add("no images", (name for name in rest if name not in captions))
            if not len(listing.names):
                held = f" among its {len(every.names):,} files ({self._tally})" if len(every.names) else ""
                raise UserError(f"there is no image in {self.uri}{held}; check the path", "data.path")
            there = set(listing.names.to_pylist()) if self._manifest.names else set()
            missing = (name for name in self._manifest.names if name not in there)
            self._tally.add("named by a manifest, but not there", missing)
            self._changed = len(listing.names) != len(every.matching(_ALWAYS_FOUND).names)
            self._images = self._classified(listing)
        return self._images

    def _classified(self, listing: Listing) -> tuple[Listing, pa.Array | None]:
        if not self.labels:
            return listing, None
        if self._manifest.labels:
            # Labels of unseen images are used where there are any, and identify nothing.
            self._changed |= self.role != "unseen"
            return listing, pa.array(
                [self._manifest.labels.get(name) for name in listing.names.to_pylist()], pa.string()
            )
        return listing, self.parents(listing)

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
            unit: Unit = {"names": listing.names.slice(*window).to_pylist()}
            if labels is not None:
                unit["labels"] = labels.slice(*window).to_pylist()
            if self._manifest.captions:
                unit["captions"] = [self._manifest.captions.get(name) for name in unit["names"]]
            elif self._texts:
                unit["texts"] = [self._texts.get(name) for name in unit["names"]]
            yield unit

    def read(self, unit: Unit, only: Container[int] | None = None) -> Iterator[Record]:
        names = unit["names"]
        nothing = [None] * len(names)
        columns = (unit.get(column, nothing) for column in ("labels", "captions", "texts"))
        for position, (name, label, caption, text) in enumerate(zip(names, *columns, strict=True)):
            try:
                wanted = only is None or position in only
                if text is not None and wanted:
                    caption = self.files.head(text, LONGEST_CAPTION).decode("utf-8-sig", "replace").strip()
                yield Record(name, self.files.read(name) if wanted else b"", label, caption=caption)
            except Unreadable as error:
                yield Record(name, label=label, error=str(error))

    def size(self, unit: Unit) -> int:
        return len(unit["names"])

    def left_out(self) -> Tally:
        self.images()
        return self._tally

    def doubt(self) -> str:
        splits = {} if getattr(self.files, "pattern", "") else mixed_splits(self.images()[0].names.to_pylist())
        return (
            f"{self.uri} holds images of several splits ({', '.join(sorted(splits))}), which all count"
            if splits
            else ""
        )

    def identity(self) -> str:
        self.images()
        return self.files.identity() + ("/content" if self._changed else "")
