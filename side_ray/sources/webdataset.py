"""WebDataset: tar files in which the members with the same stem form one sample, an image and its label."""

import json
from collections.abc import Container, Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, Self

from side_ray.config.base import Section
from side_ray.errors import UserError
from side_ray.sources.base import Place, Record, Source, Tally, Unit, rest_of
from side_ray.sources.reading.files import LARGEST_IMAGE, Files, refuse_mixed_splits
from side_ray.sources.reading.manifests import caption_in
from side_ray.sources.reading.pixels import EXTENSIONS, HEAD_BYTES, is_image
from side_ray.sources.reading.tars import DAMAGED, members

TEXTS = ("cls", "json", "txt")


class WebDatasetOptions(Section):
    label_column: str | None = None
    """The field of `.json` that holds the label; by default `label`."""


class WebDatasetSource(Source):
    """One unit per tar file, which is read sequentially.

    The label is the text of `.cls`, or the field `label_field` of `.json`; the caption that of `.txt`, or a field of
    `.json`. The first sample decides whether there are labels.
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
        refuse_mixed_splits(self.files, names)
        return ({"name": name} for name in names)

    def read(self, unit: Unit, only: Container[int] | None = None) -> Iterator[Record]:
        labelled = self.labelled
        for record in self._samples(unit["name"]):
            yield record if labelled else replace(record, label=None)

    def _samples(self, shard: str) -> Iterator[Record]:
        """The samples of one tar file. If the archive is damaged, the last record has the error."""
        seen: set[str] = set()
        stem, parts = "", dict[str, bytes]()
        others: list[str] = []
        try:
            with self.files.open(shard) as file:
                for member in members(file):
                    key, extension = _split(member.name)
                    if key != stem:
                        yield from self._sample(shard, stem, parts, others)
                        stem, parts, others = key, {}, []
                        if key in seen:
                            raise UserError(
                                f"{shard} in {self.uri} holds {key} twice; write each sample once", "data.path"
                            )
                        seen.add(key)
                    if extension in parts:
                        raise UserError(
                            f"{shard} in {self.uri} holds {member.name} twice; write each file once", "data.path"
                        )
                    wanted = key and member.is_file
                    if wanted and (extension in TEXTS or _is_image(extension) or is_image(member.head(HEAD_BYTES))):
                        parts[extension] = member.read(LARGEST_IMAGE)
                    else:
                        others.append(member.name if member.is_file else f"{member.name} (a link)")
                yield from self._sample(shard, stem, parts, others)
        except DAMAGED as error:
            yield Record(shard, error=f"the archive is damaged after {len(seen)} samples ({error})")

    def _sample(self, shard: str, stem: str, parts: dict[str, bytes], others: list[str]) -> Iterator[Record]:
        """The record of one sample. Images like `0001.mask.png` are left out beside `0001.png`; without it, each is a record."""
        images = [extension for extension in parts if extension not in TEXTS]
        plain = [extension for extension in images if "." not in extension]
        name = f"{shard}/{stem}"
        for other in others:
            yield Record(f"{shard}/{other}", left_out="no images")
        if not parts:
            return
        if set(parts) == {"txt"}:
            yield Record(f"{name}.txt", left_out="no images")
            return
        if not images or len(plain) > 1:
            found = f"{len(plain)} images ({', '.join(plain)})" if images else "no image"
            yield Record(name, error=f"the sample holds {found}")
            return
        for extension in images:
            each = name if extension in plain or len(images) == 1 else f"{name}.{extension}"
            if plain and extension not in plain:
                yield Record(each, left_out="further images of a sample")
                continue
            try:
                fields = _fields(parts)
                yield Record(each, parts[extension], self._label(parts, fields), caption=_caption(parts, fields))
            except ValueError as error:
                yield Record(each, error=str(error))

    def _label(self, parts: dict[str, bytes], fields: dict[str, Any]) -> str | None:
        if "cls" in parts:
            return parts["cls"].decode("utf-8-sig").strip()
        value = fields.get(self.label_field)
        return str(value) if isinstance(value, (str, int)) else None

    def left_out(self) -> Tally:
        return rest_of(self.files, self.file_pattern)

    def identity(self) -> str:
        return self.files.identity()


def _fields(parts: dict[str, bytes]) -> dict[str, Any]:
    """The content of `.json`. Raises ValueError if it is damaged."""
    try:
        fields: Any = json.loads(parts.get("json", b"{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its .json is damaged: {error}") from error
    return fields if isinstance(fields, dict) else {}


def _caption(parts: dict[str, bytes], fields: dict[str, Any]) -> str | None:
    """The text of `.txt`, or a field of `.json`."""
    if "txt" in parts:
        return parts["txt"].decode("utf-8-sig").strip()
    return caption_in(fields)


def _split(name: str) -> tuple[str, str]:
    """`a/b.seg.png` → (`a/b`, `seg.png`): the stem ends at the first dot of the file's name."""
    path = PurePosixPath(name)
    stem, _, extension = path.name.partition(".")
    return (str(path.parent / stem) if stem else "", extension.lower())


def _is_image(extension: str) -> bool:
    return extension.rpartition(".")[2] in EXTENSIONS
