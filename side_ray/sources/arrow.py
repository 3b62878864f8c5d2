"""Hugging Face data sets as `save_to_disk` writes them: Arrow files with a column of images, read without `datasets`."""

import json
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, Self

import pyarrow as pa

from side_ray.errors import UserError
from side_ray.sources.base import Place, Record, Source, Tally, Unit, rest_of
from side_ray.sources.reading.columns import Columns, TableOptions, check_labels, choose_columns, records_of
from side_ray.sources.reading.files import Files, Unreadable, refuse_mixed_splits

STATE = "state.json"


class ArrowSource(Source):
    """One unit per Arrow file. Where a state.json names the files of the data set, others (such as caches) are left out.

    Args:
        image_column, label_column, labels: as in `ParquetSource`.
    """

    Options = TableOptions
    label_keys = frozenset({"label_column"})
    file_pattern = r"\.arrow$"

    def __init__(
        self, files: Files, image_column: str = "image", label_column: str | None = None, labels: bool = True
    ) -> None:
        self.files, self.image_column, self.label_column = files, image_column, label_column
        self.labels, self.uri = labels, files.uri

    @classmethod
    def open(cls, place: Place, options: TableOptions) -> Self:
        return cls(place.files(), options.image_column, options.label_column, place.labels)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "parts"}

    def _names(self) -> list[str]:
        """The Arrow files of the data set. Raises UserError where there is none, or they are only a selection's base."""
        listing = self.files.listing()
        names: list[str] = listing.matching(self.file_pattern).names.to_pylist()
        if not names:
            raise UserError(f"there is no .arrow file in {self.uri}; check the path", "data.path")
        refuse_mixed_splits(self.files, names)
        for where in listing.matching(rf"(^|/){STATE}$").names.to_pylist():
            state: Any = None
            with suppress(ValueError):
                state = json.loads(self.files.read(where))
            if not isinstance(state, dict):
                raise UserError(f"{where} in {self.uri} is damaged; save the data set again", "data.path")
            if state.get("_indices_data_files") or state.get("_indices_files"):
                raise UserError(
                    f"{self.uri} is a selection of rows; save it again with a newer `datasets`", "data.path"
                )
            folder = where.removesuffix(STATE)
            data = [each for each in state.get("_data_files") or () if isinstance(each, dict)]
            listed = {f"{folder}{each.get('filename')}" for each in data}
            missing = sorted(listed - set(names))
            if missing:
                raise UserError(f"{self.uri} lacks {missing[0]}, which its {where} names; get it again", "data.path")
            if listed:
                names = [name for name in names if name.rpartition("/")[0] != folder.rstrip("/") or name in listed]
        return names

    @contextmanager
    def _open(self, name: str) -> Iterator[pa.RecordBatchReader]:
        """The record batches of a file in the stream format, or in the file format."""
        try:
            with self.files.input(name) as source:
                if source.read(6) == b"ARROW1":
                    file = pa.ipc.open_file(source)
                    batches = (file.get_batch(index) for index in range(file.num_record_batches))
                    yield pa.RecordBatchReader.from_batches(file.schema, batches)
                else:
                    source.seek(0)
                    yield pa.ipc.open_stream(source)
        except (pa.ArrowException, OSError, UnicodeDecodeError, Unreadable) as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(
                f"{name} in {self.uri} is not a whole Arrow file ({reason}); get it again", "data.path"
            ) from None

    @cached_property
    def parts(self) -> list[tuple[str, int, Columns]]:
        """Name, rows and columns of every file. Each is read once to count its rows, which Arrow's stream format does not
        say."""
        found = []
        for name in self._names():
            with self._open(name) as reader:
                columns = choose_columns(reader.schema, f"{name} in {self.uri}", self.image_column, self.label_column)
                found.append((name, sum(batch.num_rows for batch in reader), columns))
        if self.labels:
            check_labels({name: columns for name, _, columns in found}, self.uri, self.label_column)
        return found

    @property
    def labelled(self) -> bool:
        return self.labels and all(columns.label for _, _, columns in self.parts)

    def count(self) -> int | None:
        return sum(rows for _, rows, _ in self.parts)

    def units(self) -> Iterator[Unit]:
        labelled = self.labelled
        for name, rows, columns in self.parts:
            yield {"name": name, "rows": rows, "columns": columns if labelled else columns._replace(label=None)}

    def read(self, unit: Unit, only: Container[int] | None = None) -> Iterator[Record]:
        first = 0
        with self._open(unit["name"]) as reader:
            for batch in reader:
                # Offsets of a damaged file may lead anywhere, and Arrow ends the process where they leave the buffer.
                batch.validate(full=True)
                yield from records_of(batch, Columns(*unit["columns"]), unit["name"], first)
                first += batch.num_rows

    def size(self, unit: Unit) -> int:
        return int(unit["rows"])

    def left_out(self) -> Tally:
        tally = rest_of(self.files, self.file_pattern)
        read = {name for name, _, _ in self.parts}
        names = self.files.listing().matching(self.file_pattern).names.to_pylist()
        tally.add("Arrow files that state.json does not name", (name for name in names if name not in read))
        return tally

    def identity(self) -> str:
        return self.files.identity()
