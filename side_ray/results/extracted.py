"""The training images that were found, one row each: `extracted.csv` and `extracted.parquet` of a report."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from side_ray.runs.dataset import part_keys
from side_ray.runs.run import Artifact
from side_ray.storage import Store
from side_ray.storage.sealed import read_columns

SCHEMA = pa.schema(
    [
        ("train_id", pa.int64()),
        ("file", pa.string()),
        ("label", pa.int64()),
        ("group_size", pa.int64()),
        ("copies", pa.int64()),
        ("best", pa.float32()),
        ("method", pa.string()),
        ("lambda", pa.float64()),
        ("seed", pa.int64()),
        ("sample_id", pa.int64()),
        ("q_value", pa.float64()),
    ]
)
"""`train_id` is the first of `group_size` training images that count as one (`similarity.duplicates`). `copies`: samples of all
conditions whose best match this image is, within the cut. `best`, `method`, `lambda`, `seed` and `sample_id` are of the closest
of them."""


def closest(
    conditions: Iterable[tuple[str, float, np.ndarray, np.ndarray, np.ndarray]], larger_is_closer: bool
) -> list[dict[str, Any]]:
    """The closest copy of each training image.

    Args:
        conditions: of each its method, λ, and for N_G samples sorted by id: best value float32, best training id int64, and
            whether the sample is a copy, bool.

    Returns:
        Rows of `train_id`, `copies`, `best`, `method`, `lambda`, `sample_id`, by ascending `train_id`. Of equally close
        samples the first condition's and the smallest id is taken.
    """
    found: dict[int, dict[str, Any]] = {}
    for method, scale, best, best_id, copied in conditions:
        for sample_id in np.flatnonzero(copied).tolist():
            train_id, value = int(best_id[sample_id]), float(best[sample_id])
            row = found.setdefault(train_id, {"train_id": train_id, "copies": 0, "best": None})
            row["copies"] += 1
            if row["best"] is None or (value > row["best"] if larger_is_closer else value < row["best"]):
                row |= {"best": value, "method": method, "lambda": scale, "sample_id": sample_id}
    return [found[train_id] for train_id in sorted(found)]


def names_of(store: Store, prepared: str, split: str) -> dict[int, str]:
    """The name in the source of every image of a split, by id."""
    found = {}
    for key in part_keys(Artifact(store, prepared)):
        table = read_columns(store, key, ["id", "split", "image.path"])
        for row in table.filter(pc.equal(table.column("split"), split)).to_pylist():
            found[row["id"]] = row["image"]["path"]
    return found


def members_of(store: Store, prepared: str, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """`file` (name in the source) and `label` of training images, by id; None where they have none.

    Args:
        prepared: key of the `prepare` artifact.
    """
    found, wanted = {}, pa.array(ids, pa.int64())
    for key in part_keys(Artifact(store, prepared)) if ids else ():
        table = read_columns(store, key, ["id", "split", "label", "image.path"])
        chosen = pc.and_(pc.equal(table.column("split"), "member"), pc.is_in(table.column("id"), wanted))
        for row in table.filter(chosen).to_pylist():
            found[row["id"]] = {"file": row["image"]["path"], "label": row["label"]}
    return found
