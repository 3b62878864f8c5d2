"""WebDataset: tar files in which the members with the same stem form one sample, an image and its label."""

import json
from collections.abc import Container, Iterator
from pathlib import PurePosixPath
from typing import Any, Self

from side_ray.config.base import Section
from side_ray.errors import UserError
from side_ray.sources.base import Place, Record, Source, Unit
from side_ray.sources.reading.files import LARGEST_IMAGE, Files
from side_ray.sources.reading.pixels import EXTENSIONS
from side_ray.sources.reading.tars import DAMAGED, members

LABELS = ("cls", "json")


class WebDatasetOptions(Section):
    label_column: str | None = None
    """The field of `.json` that holds the label; by default `label`."""


class WebDatasetSource(Source):
    """One unit per tar file, which is read sequentially.

    The label is the text of `.cls`, or the field `label_field` of `.json`. The first sample decides whether there are labels.
    """

    Options = WebDatasetOptions
    label_keys = frozenset({"label_column"})
    file_pattern = r"\.(tar|tar\.gz|tgz)$"

    def __init__(self, files: Files, label_field: str = "label", labels: bool = True) -> None:
        self.files, self.label_field, self.labels = files, label_field, labels
        self.uri = files.uri
        self._labelled: bool | None = None

    @classmethod
    def open(cls, place: Place, options: WebDatasetOptions) -> Self:
        return cls(place.files(), options.label_column or "label", place.labels)

    @property
    def labelled(self) -> bool:
        if self._labelled is None:
            samples = self._samples(next(self.units())["name"])
            first = next((sample for sample in samples if not sample.error), None)
            self._labelled = self.labels and first is not None and first.label is not None
        return self._labelled

    def count(self) -> int | None:
        return None

    def units(self) -> Iterator[Unit]:
        names = self.files.listing().matching(self.file_pattern).names.to_pylist()
        if not names:
            raise UserError(f"there is no .tar file in {self.uri}; check the path", "data.path")
        return ({"name": name} for name in names)

    def read(self, unit: Unit, only: Container[int] | None = None) -> Iterator[Record]:
        labelled = self.labelled
        for record in self._samples(unit["name"]):
            yield record if labelled else Record(record.name, record.content, None, record.error)

    def _samples(self, shard: str) -> Iterator[Record]:
        """The samples of one tar file. If the archive is damaged, the last record has the error."""
        seen: set[str] = set()
        stem, parts = "", dict[str, bytes]()
        try:
            with self.files.open(shard) as file:
                for member in members(file):
                    key, extension = _split(member.name)
                    if key != stem:
                        yield from self._sample(shard, stem, parts)
                        stem, parts = key, {}
                        if key in seen:
                            raise UserError(
                                f"{shard} in {self.uri} holds {key} twice; write each sample once", "data.path"
                            )
                        seen.add(key)
                    if extension in parts:
                        raise UserError(
                            f"{shard} in {self.uri} holds {member.name} twice; write each file once", "data.path"
                        )
                    if key and (extension in LABELS or extension in EXTENSIONS):
                        parts[extension] = member.read(LARGEST_IMAGE)
                yield from self._sample(shard, stem, parts)
        except DAMAGED as error:
            yield Record(shard, error=f"the archive is damaged after {len(seen)} samples ({error})")

    def _sample(self, shard: str, stem: str, parts: dict[str, bytes]) -> Iterator[Record]:
        images = [extension for extension in parts if extension in EXTENSIONS]
        name = f"{shard}/{stem}"
        if not parts:
            return
        if len(images) != 1:
            found = f"{len(images)} images ({', '.join(images)})" if images else "no image"
            yield Record(name, error=f"the sample holds {found}")
            return
        try:
            yield Record(name, parts[images[0]], self._label(parts))
        except ValueError as error:
            yield Record(name, error=str(error))

    def _label(self, parts: dict[str, bytes]) -> str | None:
        if "cls" in parts:
            return parts["cls"].decode().strip()
        if "json" not in parts:
            return None
        try:
            fields: Any = json.loads(parts["json"])
        except ValueError as error:
            raise ValueError(f"its .json is damaged: {error}") from error
        value = fields.get(self.label_field) if isinstance(fields, dict) else None
        return str(value) if isinstance(value, (str, int)) else None

    def identity(self) -> str:
        return self.files.identity()


def _split(name: str) -> tuple[str, str]:
    """`a/b.seg.png` → (`a/b`, `seg.png`): the stem ends at the first dot of the file's name."""
    path = PurePosixPath(name)
    stem, _, extension = path.name.partition(".")
    return (str(path.parent / stem) if stem else "", extension.lower())
