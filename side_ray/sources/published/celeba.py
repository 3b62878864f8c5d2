"""CelebA: a folder or zip archive of images, and text files with the person and the attributes of each (Liu et al., 2015)."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from side_ray.config.base import Count, Section
from side_ray.errors import RunError, UserError
from side_ray.sources.base import Place
from side_ray.sources.folder import FolderSource
from side_ray.sources.reading.files import Files, Listing

ATTRIBUTES = "list_attr_celeba.txt"
LIST_KEY = "data.labels_file"


@dataclass(frozen=True)
class LabelList:
    """The text of an identity or attribute list, and its path."""

    text: str
    where: str

    @cached_property
    def lines(self) -> list[list[str]]:
        return [line.split() for line in self.text.splitlines()]

    def identities(self) -> dict[str, str]:
        """Lines of `000001.jpg 2880`: file name and number of the person."""
        return self._table(0, 2, lambda words: words[1])

    def attributes(self, chosen: list[str]) -> dict[str, str]:
        """Classes by the chosen attributes, named like `Male=1,Smiling=0`.

        The first line holds the number of images, the second the names of the attributes, each other a file name and 1
        or -1 for each attribute.
        """
        names = self.lines[1] if len(self.lines) > 1 else []
        unknown = [name for name in chosen if name not in names]
        if unknown:
            raise UserError(
                f"{unknown[0]} is not among the {len(names)} in the second line of {self.where}; known: "
                f"{', '.join(names[:6])} …",
                "data.attributes",
            )
        columns = {name: 1 + names.index(name) for name in chosen}
        return self._table(
            2,
            1 + len(names),
            lambda words: ",".join(f"{name}={int(words[column] == '1')}" for name, column in columns.items()),
        )

    def _table(self, skip: int, width: int, label: Callable[[list[str]], str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for number, words in enumerate(self.lines[skip:], skip + 1):
            if not words:
                continue
            if len(words) != width or not all(word.lstrip("-").isdigit() for word in words[1:]):
                raise UserError(
                    f"line {number} of {self.where} is not a file name and {width - 1} "
                    f"number{'s' if width > 2 else ''}; check the file",
                    "data.labels_file",
                )
            if words[0] in found:
                raise UserError(
                    f"{self.where} names {words[0]} twice (line {number}); correct the file", "data.labels_file"
                )
            found[words[0]] = label(words)
        if not found:
            raise UserError(f"{self.where} names no image; check the file", "data.labels_file")
        return found


def _read_list(files: Files) -> LabelList:
    if files.only is None:
        raise UserError(f"{files.uri} is a directory; give the text file", "data.labels_file")
    try:
        return LabelList(files.store.read(files.only).decode("utf-8-sig"), files.uri)
    except UnicodeDecodeError:
        raise UserError(
            f"{files.uri} is not a text file; give the list as it was published", "data.labels_file"
        ) from None


class CelebaOptions(Section):
    labels_file: str | None = None
    """The identity or attribute list; by default looked for in `path` and beside it."""
    attributes: list[str] = Field(default=[])
    """Classes by these attributes of list_attr_celeba.txt instead of by person."""
    min_per_class: Count = 1
    """Persons with fewer images in `path` are left out."""


class CelebaSource(FolderSource):
    """CelebA's aligned images, all or some of them, labelled by person or by attributes. Every image must be in the list.

    Args:
        labels_file: the list; None where none was found.
        attributes: classes by these attributes instead of by person.
        min_per_class: classes with fewer images are left out with all their images.
        unseen: take the images that the list does not choose instead of those that it does (`CelebaHqSource`).
    """

    Options: ClassVar[type[Section]] = CelebaOptions
    path_keys = frozenset({"labels_file"})
    label_keys: ClassVar[frozenset[str]] = frozenset({"attributes"})
    archive: ClassVar[str | None] = "img_align_celeba.zip"
    """A zip archive that is read in place of the directory that it is in."""
    list_name = "identity_CelebA.txt"
    list_chooses = False
    """Whether images that are not in the list are left out, instead of being an error."""

    def __init__(
        self,
        files: Files,
        labels_file: Files | None = None,
        attributes: Sequence[str] = (),
        labels: bool = True,
        min_per_class: int = 1,
        unseen: bool = False,
    ) -> None:
        super().__init__(files, labels)
        self.attributes, self.min_per_class, self.unseen = list(attributes), min_per_class, unseen
        choosing = unseen or min_per_class > 1
        wanted = labels_file and (labels or choosing or self.list_chooses)
        self.list = _read_list(labels_file) if labels_file and wanted else None
        if self.list is None and (labels or choosing) and (choosing or not self._labelled_without_list()):
            name = ATTRIBUTES if attributes else self.list_name
            raise UserError(f"{name} is not at {self.uri}; give its path, or set data.labels=false", LIST_KEY)

    def _labelled_without_list(self) -> bool:
        return False

    @classmethod
    def open(cls, place: Place, options: Any) -> Self:
        files = place.files()
        if cls.archive and files.only is None and files.store.exists(cls.archive):
            files = Files(files.store, files.uri, cls.archive)
        # Unseen images at another path than the members are all used, whatever the list says.
        listed = place.role != "unseen" or place.same_path
        attributes = getattr(options, "attributes", ())
        labels_file = cls._find_list(place, options.labels_file, attributes) if listed else None
        least = options.min_per_class if listed else 1
        unseen = place.role == "unseen"
        source = cls(files, labels_file, attributes, place.labels, least, unseen and place.same_path)
        source.role = place.role
        return source

    @classmethod
    def _find_list(cls, place: Place, given: str | None, attributes: Sequence[str]) -> Files | None:
        """The given list, or the published one in the path or beside it."""
        if given:
            return place.files(given, LIST_KEY)
        inside = place.path.rstrip("/")
        for directory in (inside, f"{inside}/Anno", inside.rpartition("/")[0] or "."):
            try:
                files = place.files(f"{directory}/{ATTRIBUTES if attributes else cls.list_name}", LIST_KEY)
            except RunError:
                raise
            except UserError:
                continue
            if files.only:
                return files
        return None

    def __getstate__(self) -> dict[str, Any]:
        # The list is needed only where the units are made.
        return {**super().__getstate__(), "list": None}

    def _classified(self, listing: Listing) -> tuple[Listing, pa.Array | None]:
        if self.list is None:
            return super()._classified(listing)
        known = self.list.attributes(self.attributes) if self.attributes else self.list.identities()
        table = pa.array(known, pa.string()), pa.array(known.values(), pa.string())
        base = pc.replace_substring_regex(listing.names, r"^.*/", "")
        if len(pc.unique(base)) < len(base):
            counts = base.value_counts()
            twice = counts.field("values")[pc.index(pc.greater(counts.field("counts"), 1), True).as_py()].as_py()
            raise UserError(
                f"{self.uri} holds {twice} in several folders; give the directory with one version", "data.path"
            )
        labels = table[1].take(pc.index_in(base, table[0]))
        if labels.null_count and not self.list_chooses:
            first = listing.names[int(np.flatnonzero(labels.is_null().to_numpy(zero_copy_only=False))[0])].as_py()
            raise UserError(
                f"{labels.null_count:,} images are not in {self.list.where}, first {first}; give the list "
                "that belongs to these images, or set data.labels=false",
                "data.labels_file",
            )
        chosen = self._chosen(labels)
        rows = pa.array(np.flatnonzero(~chosen if self.unseen else chosen))
        if not len(rows):
            raise UserError(
                f"no image in {self.uri} is left by {self.list.where} with data.min_per_class "
                f"{self.min_per_class}; check both",
                "data.labels_file",
            )
        if not self.unseen:
            named = labels.is_valid().to_numpy(zero_copy_only=False)
            self._tally.add("not in the list", listing.take(np.flatnonzero(~named)).names.to_pylist())
            small = listing.take(np.flatnonzero(named & ~chosen)).names.to_pylist()
            self._tally.add("of classes below data.min_per_class", small)
        there = set(base.to_pylist())
        self._tally.add("named by the list, but not there", (name for name in known if name not in there))
        kept = listing.take(rows.to_numpy())
        return kept, labels.take(rows) if self.labels and not self.unseen else None

    def _chosen(self, labels: pa.Array) -> np.ndarray:
        """bool [N]: whether an image is in the list and its class is large enough."""
        codes = labels.dictionary_encode().indices.fill_null(-1).to_numpy()
        sizes = np.bincount(codes[codes >= 0], minlength=1)
        return (codes >= 0) & (sizes[np.maximum(codes, 0)] >= self.min_per_class)

    def identity(self) -> str:
        listed = hashlib.sha256(self.list.text.encode()).hexdigest() if self.list else ""
        return f"{'unseen' if self.unseen else 'all'}/{super().identity()}/{listed}"
