"""CelebA and CelebA-HQ: a folder or zip archive of images, and text files that say who or what is on each."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from side_ray.errors import UserError
from side_ray.sources.base import Role
from side_ray.sources.folder import FolderSource
from side_ray.sources.reading.files import Files, Listing

LISTS = {"celeba": "identity_CelebA.txt", "celeba_hq": "CelebA-HQ-identity.txt"}
ATTRIBUTES = "list_attr_celeba.txt"
ZIP = "img_align_celeba.zip"


@dataclass(frozen=True)
class LabelList:
    """The text of an identity or attribute list, and where it came from."""

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
                f"data.attributes: {unknown[0]} is none of the {len(names)} in the second line of {self.where}; known: "
                f"{', '.join(names[:6])} …"
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
                    f"data.labels_file: line {number} of {self.where} is not a file name and {width - 1} "
                    f"number{'s' if width > 2 else ''}; check the file"
                )
            if words[0] in found:
                raise UserError(f"data.labels_file: {self.where} names {words[0]} twice (line {number}); mend the file")
            found[words[0]] = label(words)
        if not found:
            raise UserError(f"data.labels_file: {self.where} names no image; check the file")
        return found


def _read_list(files: Files) -> LabelList:
    if files.only is None:
        raise UserError(f"data.labels_file: {files.uri} is a directory; give the text file")
    try:
        return LabelList(files.store.read(files.only).decode(), files.uri)
    except UnicodeDecodeError:
        raise UserError(f"data.labels_file: {files.uri} is no text file; give the list as it was published") from None


class FacesSource(FolderSource):
    """CelebA's aligned images (any part of them) or CelebA-HQ's, labelled by person or by attributes.

    Args:
        kind: with `celeba` every image must be in the list; with `celeba_hq` the list chooses, and images that it does not
            name are no members: that is how CelebA-HQ-FI is defined within CelebA-HQ. Without a list CelebA-HQ's
            sub-folders are the persons.
        labels_file: the list; looked for in the data path where absent.
        attributes: classes by these attributes of CelebA instead of by person.
        min_per_class: classes with fewer images are left out with all their images.
        role: `unseen` turns the choice of the list round: the images that it leaves out.
    """

    def __init__(
        self,
        files: Files,
        kind: Literal["celeba", "celeba_hq"],
        labels_file: Files | None = None,
        attributes: tuple[str, ...] = (),
        labels: bool = True,
        min_per_class: int = 1,
        role: Role = "all",
    ) -> None:
        if kind == "celeba" and files.only is None and files.store.exists(ZIP):
            files = Files(files.store, files.uri, ZIP)
        super().__init__(files, labels)
        self.kind, self.attributes, self.min_per_class, self.role = kind, list(attributes), min_per_class, role
        choosing = role == "unseen" or min_per_class > 1
        wanted = labels_file and (labels or choosing or kind == "celeba_hq")
        self.list = _read_list(labels_file) if labels_file and wanted else None
        if self.list is None and (labels or choosing):
            persons_by_folder = kind == "celeba_hq" and role == "all" and min_per_class == 1 and self.labelled
            if not persons_by_folder:
                name = ATTRIBUTES if attributes else LISTS[kind]
                raise UserError(
                    f"data.labels_file: {name} is not at {self.uri}; give its path, or set data.labels=false"
                )

    def __getstate__(self) -> dict[str, Any]:
        # Only who makes the units needs the list.
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
                f"data.path: {self.uri} holds {twice} in several folders; give the directory with one version"
            )
        labels = table[1].take(pc.index_in(base, table[0]))
        if self.kind == "celeba" and labels.null_count:
            first = listing.names[int(np.flatnonzero(labels.is_null().to_numpy(zero_copy_only=False))[0])].as_py()
            raise UserError(
                f"data.labels_file: {labels.null_count:,} images are not in {self.list.where}, first {first}; give the list "
                "that belongs to these images, or set data.labels=false"
            )
        chosen = self._chosen(labels)
        rows = pa.array(np.flatnonzero(~chosen if self.role == "unseen" else chosen))
        if not len(rows):
            raise UserError(
                f"data.labels_file: no image in {self.uri} is left by {self.list.where} with data.min_per_class "
                f"{self.min_per_class}; check both"
            )
        kept = Listing(listing.names.take(rows), listing.sizes[rows.to_numpy()])
        return kept, labels.take(rows) if self.labels and self.role != "unseen" else None

    def _chosen(self, labels: pa.Array) -> np.ndarray:
        """bool [N]: in the list, and of a class that is large enough."""
        codes = labels.dictionary_encode().indices.fill_null(-1).to_numpy()
        sizes = np.bincount(codes[codes >= 0], minlength=1)
        return (codes >= 0) & (sizes[np.maximum(codes, 0)] >= self.min_per_class)

    def identity(self) -> str:
        listed = hashlib.sha256(self.list.text.encode()).hexdigest() if self.list else ""
        return f"{self.role}/{super().identity()}/{listed}"
