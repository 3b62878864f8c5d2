"""The digits, the seeded split, and the run's own Parquet of images."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from side_ray.config import DataSection
from side_ray.errors import UserError
from side_ray.images import IMAGE_TYPE, decode_column, image_column
from side_ray.storage import Store

SPLITS = ("member", "calibration", "holdout")
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("image", IMAGE_TYPE, nullable=False),
        pa.field("label", pa.int64()),
    ]
)


@dataclass(frozen=True)
class ImageSet:
    """Images of one split. `ids` int64 [N], `images` uint8 [N, H, W, C], `labels` int64 [N] or None; the label of an image
    that has none among others that have is -1."""

    ids: np.ndarray
    images: np.ndarray
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.ids)


def load_digits() -> ImageSet:
    """scikit-learn's 1,797 scanned digits, uint8 [N, 8, 8, 1], in their own order."""
    from sklearn import datasets

    digits = datasets.load_digits()
    # The scans run from 0 to 16; 255/16 maps them onto the whole range of a byte.
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, :, :, None]
    return ImageSet(np.arange(len(images)), images, digits.target.astype(np.int64))


def check_sizes(data: DataSection, total: int, apart: int | None = None) -> None:
    """Refuse a split that the images do not suffice for.

    Args:
        total: images in the source.
        apart: images in `data.holdout_path`, None without one.

    Raises:
        UserError: names the key and both numbers.
    """
    behind = f" behind the first {data.skip}" if data.skip else ""
    total = max(0, total - data.skip)
    if apart is None:
        needed = data.members + 2 * data.holdout
        if needed > total:
            raise UserError(
                f"data.members: {data.members} members and twice {data.holdout} unseen images are {needed}, "
                f"but {data.source} holds {total}{behind}; lower data.members or data.holdout"
            )
        return
    if data.members > total:
        raise UserError(
            f"data.members: {data.members} are wanted, but {data.path} holds {total} images{behind}; lower data.members"
        )
    if 2 * data.holdout > apart:
        raise UserError(
            f"data.holdout: twice {data.holdout} unseen images are wanted, but {data.holdout_path} holds {apart}; "
            "lower data.holdout"
        )


def split_indices(data: DataSection, total: int, seed: int, apart: int | None = None) -> dict[str, np.ndarray]:
    """Disjoint random positions for members, calibration and holdout, each int64 and in random order.

    Args:
        total: images in the source.
        apart: images in `data.holdout_path`; their positions are `total` … `total + apart` − 1.

    Raises:
        UserError: there are fewer images than the three sets need.
    """
    check_sizes(data, total, apart)
    order = np.random.default_rng([seed, 0]).permutation(total)[data.skip :]
    if apart is not None:
        unseen = np.random.default_rng([seed, 3]).permutation(apart)
        order = np.concatenate([order[: data.members], total + unseen])
    bounds = np.cumsum([data.members, data.holdout, data.holdout])
    return dict(zip(SPLITS, np.split(order[: bounds[-1]], bounds[:-1]), strict=True))


def split_table(source: ImageSet, indices: np.ndarray, split: str) -> pa.Table:
    """The canonical table of one split; `id` counts from 0 within it."""
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
    """Tables of one schema as the bytes of one Parquet file, each in row groups of its own of at most `rows` rows."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, tables[0].schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table, row_group_size=rows)
    return buffer.getvalue()


def read_split(
    store: Store, prepared: str, split: str, start: int = 0, stop: int | None = None, ids: Sequence[int] | None = None
) -> ImageSet:
    """One split of a prepared data set, or its images of ids `start` … `stop` − 1 or of `ids`, in the order of the ids.

    Args:
        store: where the run lives.
        prepared: key of the `prepare` artifact.
        split: `member`, `calibration` or `holdout`.
    """
    chosen: list[Any] = [("split", "==", split), ("id", ">=", start)]
    if stop is not None:
        chosen.append(("id", "<", stop))
    if ids is not None:
        chosen.append(("id", "in", list(ids)))
    parts = []
    for key in sorted(entry.key for entry in store.list(prepared)):
        if key.removeprefix(f"{prepared}/").startswith("part-"):
            with store.open_input(key) as source:
                parts.append(pq.read_table(source, filters=chosen))
    table = pa.concat_tables(parts).sort_by("id")
    labels = table.column("label")
    return ImageSet(
        table.column("id").to_numpy(),
        decode_column(table.column("image")),
        None if labels.null_count == len(labels) else labels.fill_null(-1).to_numpy(),
    )
