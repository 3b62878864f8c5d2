"""The columns of a table of images: Parquet and Arrow files in Hugging Face's layout."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from side_ray.config.base import Section
from side_ray.errors import UserError
from side_ray.sources.base import Record
from side_ray.sources.reading.files import LARGEST_IMAGE
from side_ray.sources.reading.manifests import CAPTIONS, first_text

IMAGE, LABEL = "image", "label"


class TableOptions(Section):
    image_column: str = IMAGE
    """The column of images; `image` also stands for the only column of images, whatever its name."""
    label_column: str | None = None
    """The column of labels; by default `label`, if there is one."""


class Columns(NamedTuple):
    """Names of the columns of a file."""

    image: str
    label: str | None
    caption: str | None


def image_columns(schema: pa.Schema) -> list[str]:
    """The columns that can hold encoded images: struct<bytes, path>, or plain bytes where there is no such struct."""
    structs = [field.name for field in schema if _is_image_struct(field.type)]
    return structs or [field.name for field in schema if _is_binary(field.type)]


def choose_columns(schema: pa.Schema, where: str, image: str, label: str | None) -> Columns:
    """The columns to read.

    Args:
        where: the file, for messages.
        image: `data.image_column`.
        label: `data.label_column`.

    Raises:
        UserError: there is no column of images, or there are several of its name.
    """
    possible = image_columns(schema)
    if image not in schema.names and image == IMAGE and len(possible) == 1:
        image = possible[0]
    if image not in schema.names:
        held = ", ".join(schema.names[:12]) + (", …" if len(schema.names) > 12 else "")
        raise UserError(
            f"{where} has no column {image}; it has {held}: name the one that holds images", "data.image_column"
        )
    label = label or LABEL
    for name in (image, label):
        if schema.names.count(name) > 1:
            raise UserError(f"{where} has {schema.names.count(name)} columns {name}; rename all but one", "data.path")
    kind = schema.field(image).type
    if not _is_binary(kind) and not _is_image_struct(kind):
        raise UserError(
            f"{image} in {where} is {str(kind)[:60]}, not struct<bytes, path>; give the column of encoded images",
            "data.image_column",
        )
    captions = (name for name in CAPTIONS if schema.names.count(name) == 1 and _is_text(schema.field(name).type))
    return Columns(image, label if label in schema.names else None, next(captions, None))


def check_labels(columns: Mapping[str, Columns], uri: str, label: str | None) -> None:
    """Raise UserError if some files have a column of labels and others have not, or none has the column asked for."""
    without = next((name for name, each in columns.items() if not each.label), None)
    if without and (label or any(each.label for each in columns.values())):
        raise UserError(
            f"{without} in {uri} has no column {label or LABEL}; name the column of labels, or set data.labels=false",
            "data.label_column",
        )


def records_of(batch: pa.RecordBatch, columns: Columns, name: str, first: int) -> Iterator[Record]:
    """The rows of a batch as records, called `name#row (path)`."""
    names, rows = batch.schema.names, range(batch.num_rows)
    cells = {column: batch.column(names.index(column)) for column in columns if column}
    for row in rows:
        label, caption = (cells[column][row].as_py() if column else None for column in columns[1:])
        yield _record(f"{name}#{first + row}", cells[columns.image][row], label, first_text(caption))


def _record(name: str, cell: Any, label: Any, caption: str | None) -> Record:
    text = None if label is None else str(label)
    path = None
    if pa.types.is_struct(cell.type):
        fields = [each.name for each in cell.type]
        path = cell["path"].as_py() if cell.is_valid and "path" in fields else None
        cell = cell["bytes"] if cell.is_valid else None
    name = f"{name} ({path})" if path else name
    if cell is None or not cell.is_valid:
        missing = "holds only a path, not the image; embed the files' bytes" if path else "holds no image"
        return Record(name, label=text, error=missing)
    content = cell.as_buffer()
    if content.size > LARGEST_IMAGE:
        return Record(name, label=text, error=f"{content.size:,} bytes are too many for an image")
    return Record(name, content.to_pybytes(), text, caption=caption)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_image_struct(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)
