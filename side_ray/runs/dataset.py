"""The run's Parquet tables of images: their schema, and reading one split."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from side_ray.errors import Damaged
from side_ray.images import IMAGE_TYPE, ImageSet, decode_column, image_column
from side_ray.runs.run import PARTS, Artifact, part_name
from side_ray.runs.shards import whole
from side_ray.storage import Store
from side_ray.storage.sealed import read_table

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


def part_keys(prepared: Artifact) -> list[str]:
    """The keys of the files that hold the prepared images."""
    try:
        parts = prepared.info().get(PARTS)
    except FileNotFoundError:
        parts = None
    if parts is not None:
        return [f"{prepared.key}/{part_name(part)}" for part in range(parts)]
    keys = sorted(entry.key for entry in prepared.store.list(prepared.key))
    return [key for key in keys if key.removeprefix(f"{prepared.key}/").startswith("part-")]


def read_split(
    store: Store, prepared: str, split: str, start: int = 0, stop: int | None = None, ids: Sequence[int] | None = None
) -> ImageSet:
    """The images of one split with ids `start` … `stop` − 1, or of these only `ids`; sorted by id.

    Args:
        store: the store of the run.
        prepared: key of the `prepare` artifact.
        split: `member`, `calibration` or `holdout`.

    Raises:
        Damaged: files of the images are missing, or not whole.
    """
    chosen: list[Any] = [("split", "==", split), ("id", ">=", start)]
    if stop is not None:
        chosen.append(("id", "<", stop))
    if ids is not None:
        chosen.append(("id", "in", list(ids)))
    artifact = Artifact(store, prepared)
    try:
        parts = whole(lambda key: read_table(store, key, filters=chosen), part_keys(artifact))
    except Damaged as damage:
        # Without its mark, the artifact is not complete, and the deleted parts are made again.
        raise Damaged(damage.keys, damage.reason, artifact.marks) from None
    table = pa.concat_tables(parts).sort_by("id")
    labels = table.column("label")
    return ImageSet(
        table.column("id").to_numpy(),
        decode_column(table.column("image")),
        None if labels.null_count == len(labels) else labels.fill_null(-1).to_numpy(),
    )
