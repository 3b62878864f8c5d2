"""Parquet in HuggingFace's image layout: a column of struct<bytes, path>, and a label beside it where there is one."""

from collections.abc import Container, Iterator
from functools import cached_property
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from side_ray.errors import UserError
from side_ray.sources.base import UNIT_IMAGES, Place, Record, Source, Tally, Unit, rest_of
from side_ray.sources.reading.columns import (
    Columns,
    TableOptions,
    check_labels,
    choose_columns,
    image_columns,
    records_of,
)
from side_ray.sources.reading.files import LARGEST_IMAGE, Files, Unreadable, refuse_mixed_splits

ROWS_AT_ONCE = 64
MOST_COMPRESSION = 50
"""Encoded images hardly compress: more than this is a decompression bomb."""


class ParquetSource(Source):
    """One unit per group of consecutive row groups. Plain binary columns of encoded images are read as well.

    Args:
        image_column: the column of images; `image` also stands for the only column of images, whatever its name.
        label_column: the column of labels, integers or strings; None = `label`, if there is such a column.
        labels: whether labels are wanted.
    """

    Options = TableOptions
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
        self.files, self.image_column, self.label_column = files, image_column, label_column
        self.labels, self.unit_images = labels, unit_images
        self.uri = files.uri

    @classmethod
    def recognizes(cls, files: Files) -> bool:
        names = files.listing().matching(cls.file_pattern).names
        if not len(names):
            return False
        # Tools write tables of links and captions beside the images.
        try:
            with cls(files)._open(names[0].as_py()) as file:
                return bool(image_columns(file.schema_arrow))
        except UserError:
            return True

    @classmethod
    def open(cls, place: Place, options: TableOptions) -> Self:
        return cls(place.files(), options.image_column, options.label_column, place.labels)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "footers"}

    def _open(self, name: str) -> pq.ParquetFile:
        try:
            file = pq.ParquetFile(self.files.input(name))
            _ = file.schema_arrow.names  # which may not be UTF-8
            return file
        except (pa.ArrowException, OSError, UnicodeDecodeError, Unreadable) as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(
                f"{name} in {self.uri} is not a whole Parquet file ({reason}); get it again", "data.path"
            ) from None

    @cached_property
    def footers(self) -> list[tuple[str, list[int], Columns]]:
        """Name, rows of each row group, and the columns to read, of every file.

        Raises:
            UserError: no Parquet file, a damaged one, or one without a column of images.
        """
        names = self.files.listing().matching(self.file_pattern).names.to_pylist()
        if not names:
            raise UserError(f"there is no .parquet file in {self.uri}; check the path", "data.path")
        refuse_mixed_splits(self.files, names)
        found = []
        for name in names:
            with self._open(name) as file:
                metadata = file.metadata
                columns = choose_columns(
                    file.schema_arrow, f"{name} in {self.uri}", self.image_column, self.label_column
                )
                groups = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
                self._check_size(name, metadata, columns.image)
                found.append((name, groups, columns))
        if self.labels:
            check_labels({name: columns for name, _, columns in found}, self.uri, self.label_column)
        return found

    def _check_size(self, name: str, metadata: pq.FileMetaData, image: str) -> None:
        """Refuse cells that would take more memory than any image, before they are decompressed."""
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            for column in (group.column(number) for number in range(group.num_columns)):
                whole, packed = column.total_uncompressed_size, column.total_compressed_size
                bomb = whole > max(LARGEST_IMAGE, MOST_COMPRESSION * packed)
                if column.path_in_schema.split(".")[0] == image and (bomb or whole > group.num_rows * LARGEST_IMAGE):
                    raise UserError(
                        f"{name} in {self.uri}: {image} has {whole:,} bytes in {group.num_rows:,} rows of row group {index} "
                        f"({packed:,} compressed), which no images have; write it again",
                        "data.path",
                    )

    @property
    def labelled(self) -> bool:
        return self.labels and all(columns.label for _, _, columns in self.footers)

    def count(self) -> int | None:
        return sum(sum(groups) for _, groups, _ in self.footers)

    def units(self) -> Iterator[Unit]:
        labelled = self.labelled
        for name, groups, columns in self.footers:
            read = columns if labelled else columns._replace(label=None)
            run: list[int] = []
            rows = before = 0
            for index, size in enumerate(groups):
                run.append(index)
                rows += size
                if rows >= self.unit_images or index == len(groups) - 1:
                    yield {"name": name, "groups": run, "first": before, "rows": rows, "columns": read}
                    before, run, rows = before + rows, [], 0

    def read(self, unit: Unit, only: Container[int] | None = None) -> Iterator[Record]:
        """The rows of some row groups, `name` being the file and the row, and the path in the image column if there is one."""
        columns, name, row = Columns(*unit["columns"]), unit["name"], unit["first"]
        with self._open(name) as file:
            try:
                wanted = [column for column in columns if column]
                for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=unit["groups"], columns=wanted):
                    for record in records_of(batch, columns, name, row):
                        yield record
                        row += 1
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                reason = " ".join(str(error).split())[:120]
                yield Record(f"{name}#{row}", error=f"the file is damaged from here on ({reason})")

    def size(self, unit: Unit) -> int:
        return int(unit["rows"])

    def left_out(self) -> Tally:
        return rest_of(self.files, self.file_pattern)

    def identity(self) -> str:
        return self.files.identity()
