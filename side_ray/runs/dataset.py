"""The run's Parquet tables of images: writing them, and reading one split."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from side_ray.images import IMAGE_TYPE, ImageSet, decode_column, image_column
from side_ray.storage import Store

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("image", IMAGE_TYPE, nullable=False),
        pa.field("label", pa.int64()),
    ]
)


def split_table(source: ImageSet, indices: np.ndarray, split: str) -> pa.Table:
    """The canonical table (`SCHEMA`) of the images `indices` int64 [n] of `source` as one split; `id` is 0 … n − 1."""
    labels = None if source.labels is None else source.labels[indices]
    return pa.table(
        {
            "id": pa.array(np.arange(len(indices)), pa.int64()),
            "split": pa.array([split] * len(indices), pa.string()),
            "image": image_column(source.images[indices]),
            "label": pa.nulls(len(indices), pa.int64()) if labels is None else pa.array(labels, pa.int64()),
        },
        schema=SCHEMA,
    )


def to_parquet(*tables: pa.Table, rows: int | None = None) -> bytes:
    """Tables of one schema as one Parquet file. Each table starts a new row group; a row group has at most `rows` rows."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, tables[0].schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table, row_group_size=rows)
    return buffer.getvalue()


def read_split(
    store: Store, prepared: str, split: str, start: int = 0, stop: int | None = None, ids: Sequence[int] | None = None
) -> ImageSet:
    """The images of one split with ids `start` … `stop` − 1, or of these only `ids`; sorted by id.

    Args:
        store: the store of the run.
        prepared: key of the `prepare` artifact.
        split: `member`, `calibration` or `holdout`.
    """
    chosen: list[Any] = [("split", "==", split), ("id", ">=", start)]
    if stop is not None:
        chosen.append(("id", "<", stop))
    if ids is not None:
        chosen.append(("id", "in", list(ids)))
    table = _read_parts(store, prepared, chosen)
    labels = table.column("label")
    return ImageSet(
        table.column("id").to_numpy(),
        decode_column(table.column("image")),
        None if labels.null_count == len(labels) else labels.fill_null(-1).to_numpy(),
    )


def read_labels(store: Store, prepared: str, split: str) -> np.ndarray | None:
    """int64 [n], the labels of one split by id, −1 where an image has none; None if no image has one."""
    labels = _read_parts(store, prepared, [("split", "==", split)], ["id", "label"]).column("label")
    return None if labels.null_count == len(labels) else labels.fill_null(-1).to_numpy()


def _read_parts(store: Store, prepared: str, chosen: list[Any], columns: list[str] | None = None) -> pa.Table:
    """The chosen rows of the prepared images, sorted by id."""
    parts = []
    for key in sorted(entry.key for entry in store.list(prepared)):
        if key.removeprefix(f"{prepared}/").startswith("part-"):
            with store.open_input(key) as source:
                parts.append(pq.read_table(source, columns=columns, filters=chosen))
    return pa.concat_tables(parts).sort_by("id")
