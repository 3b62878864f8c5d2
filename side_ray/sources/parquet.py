"""Parquet in HuggingFace's image layout: a column of struct<bytes, path>, and a label beside it where there is one."""

from collections.abc import Container, Iterator
from functools import cached_property
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from side_ray.config.base import Section
from side_ray.errors import UserError
from side_ray.sources.base import UNIT_IMAGES, Place, Record, Source, Unit
from side_ray.sources.reading.files import Files

ROWS_AT_ONCE = 64


class ParquetOptions(Section):
    image_column: str = "image"
    """The column of images."""
    label_column: str | None = None
    """The column of labels; by default `label`, if there is one."""


class ParquetSource(Source):
    """One unit per group of consecutive row groups. Plain binary columns of encoded images are read as well.

    Args:
        image_column: the column of images.
        label_column: the column of labels, integers or strings; None = `label`, if there is such a column.
        labels: whether labels are wanted.
    """

    Options = ParquetOptions
    label_keys = frozenset({"label_column"})
    file_pattern = r"\.parquet$"

    def __init__(
        self,
        files: Files,
        image_column: str = "image",
        label_column: str | None = None,
        labels: bool = True,
        unit_images: int = UNIT_IMAGES,
    ) -> None:
        self.files, self.image_column, self.label_column = files, image_column, label_column or "label"
        self.required = label_column is not None
        self.labels, self.unit_images = labels, unit_images
        self.uri = files.uri

    @classmethod
    def open(cls, place: Place, options: ParquetOptions) -> Self:
        return cls(place.files(), options.image_column, options.label_column, place.labels)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "footers"}

    def _open(self, name: str) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.files.store.open_input(name))
        except (pa.ArrowInvalid, OSError) as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(
                f"{name} in {self.uri} is not a whole Parquet file ({reason}); get it again", "data.path"
            ) from None

    @cached_property
    def footers(self) -> list[tuple[str, list[int], bool]]:
        """Name, rows of each row group, and whether there are labels, of every file.

        Raises:
            UserError: no Parquet file, a damaged one, or one without a column of images.
        """
        names = self.files.listing().matching(self.file_pattern).names.to_pylist()
        if not names:
            raise UserError(f"there is no .parquet file in {self.uri}; check the path", "data.path")
        found = []
        for name in names:
            with self._open(name) as file:
                schema, metadata = file.schema_arrow, file.metadata
                self._check_column(name, schema)
                groups = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
                found.append((name, groups, self.label_column in schema.names))
        without = next((name for name, _, has in found if not has), None)
        if self.labels and without and (self.required or any(has for _, _, has in found)):
            raise UserError(
                f"{without} in {self.uri} has no column {self.label_column}; name the column of labels, "
                "or set data.labels=false",
                "data.label_column",
            )
        return found

    def _check_column(self, name: str, schema: pa.Schema) -> None:
        if self.image_column not in schema.names:
            raise UserError(
                f"{name} in {self.uri} has no column {self.image_column}; it has {', '.join(schema.names)}",
                "data.image_column",
            )
        kind = schema.field(self.image_column).type
        binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        if not binary and not (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
            raise UserError(
                f"{self.image_column} in {name} is {kind}, not struct<bytes, path>; give the column of encoded images",
                "data.image_column",
            )

    @property
    def labelled(self) -> bool:
        return self.labels and all(has for _, _, has in self.footers)

    def count(self) -> int | None:
        return sum(sum(groups) for _, groups, _ in self.footers)

    def units(self) -> Iterator[Unit]:
        for name, groups, _ in self.footers:
            run: list[int] = []
            rows = before = 0
            for index, size in enumerate(groups):
                run.append(index)
                rows += size
                if rows >= self.unit_images or index == len(groups) - 1:
                    yield {"name": name, "groups": run, "first": before, "rows": rows, "labels": self.labelled}
                    before, run, rows = before + rows, [], 0

    def read(self, unit: Unit, only: Container[int] | None = None) -> Iterator[Record]:
        """The rows of some row groups, `name` being the file and the row, and the path in the image column if there is one."""
        columns = [self.image_column] + ([self.label_column] if unit["labels"] else [])
        name, row = unit["name"], unit["first"]
        with self._open(name) as file:
            try:
                for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=unit["groups"], columns=columns):
                    images = batch.column(0).to_pylist()
                    labels = batch.column(1).to_pylist() if unit["labels"] else [None] * len(images)
                    for image, label in zip(images, labels, strict=True):
                        yield _record(f"{name}#{row}", image, label)
                        row += 1
            except (pa.ArrowInvalid, OSError) as error:
                reason = " ".join(str(error).split())[:120]
                yield Record(f"{name}#{row}", error=f"the file is damaged from here on ({reason})")

    def size(self, unit: Unit) -> int:
        return int(unit["rows"])

    def identity(self) -> str:
        return self.files.identity()


def _record(name: str, image: Any, label: Any) -> Record:
    text = None if label is None else str(label)
    path = None
    if isinstance(image, dict):
        path, image = image.get("path"), image["bytes"]
    name = f"{name} ({path})" if path else name
    if image is None:
        missing = "holds only a path, not the image; embed the files' bytes" if path else "holds no image"
        return Record(name, label=text, error=missing)
    return Record(name, image, text)
