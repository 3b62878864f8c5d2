"""The run's Parquet tables of images: writing them, reading one split, and which of its images are duplicates."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from side_ray.errors import Damaged
from side_ray.images import IMAGE_TYPE, ImageSet, decode_column, image_column
from side_ray.runs.run import PARTS, Artifact, part_name
from side_ray.runs.shards import ShardSet, shards_of, whole
from side_ray.sources.select import SPLITS, Split
from side_ray.storage import Store
from side_ray.storage.sealed import read_columns, read_table

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("image", IMAGE_TYPE, nullable=False),
        pa.field("label", pa.int64()),
        pa.field("group", pa.int64(), nullable=False),
        pa.field("caption", pa.string()),
    ]
)
DUPLICATES = "duplicates.parquet"
DUPLICATES_SCHEMA = pa.schema(
    [("split", pa.string()), ("id", pa.int64()), ("group", pa.int64()), ("copy_of", pa.int64())]
)


PLAN = "scan/plan.parquet"
"""Of the prepared images: split · id · part, the file that holds each."""
LATENT = "latent"
"""The column of what a latent model's images are decoded from."""


def latent_column(latents: np.ndarray) -> tuple[pa.Field, pa.Array]:
    """Latents float32 [N, c, h, w] as a column of lists; the field's metadata has their shape."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(latents.ravel(), pa.float32()), latents[0].size)
    return pa.field(LATENT, column.type, metadata={"shape": json.dumps(latents.shape[1:])}), column


def decode_latents(table: pa.Table) -> np.ndarray:
    """Latents float32 [N, c, h, w] of a table with such a column.

    Raises:
        KeyError: there is none.
    """
    shape = json.loads(table.schema.field(LATENT).metadata[b"shape"])
    values = [chunk.flatten().to_numpy() for chunk in table.column(LATENT).chunks]
    return np.concatenate(values).reshape(-1, *shape)


def read_latents(synthetic: ShardSet, shards: int) -> np.ndarray:
    """Latents float32 [N, c, h, w] of a latent model's synthetic set. Raises Damaged."""
    return decode_latents(synthetic.read_first(shards, [LATENT]))


@dataclass(frozen=True)
class Groups:
    """The groups of a split's images that count as one image, each named by the id of its first."""

    size: int
    """Images in the split."""
    ids: np.ndarray
    """int64 [m], ascending, the images of groups of more than one."""
    groups: np.ndarray
    """int64 [m], the group of each."""
    copy_of: np.ndarray
    """int64 [m], the first image with the same pixels."""

    @classmethod
    def of(cls, groups: np.ndarray, contents: np.ndarray) -> "Groups":
        """From the group of every image of a split, by id, and numbers that are equal where the pixels are; both int64 [n]."""
        _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
        ids = np.flatnonzero(counts[inverse] > 1)
        _, first, same = np.unique(contents, return_index=True, return_inverse=True)
        return cls(len(groups), ids, groups[ids], first[same][ids])

    @property
    def distinct(self) -> int:
        """Number of groups, single images included."""
        return self.size - len(self.ids) + len(np.unique(self.groups))

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """The images to compare with: of groups `start` … `stop` − 1, each image whose pixels no earlier one has.

        Returns:
            Their ids and groups, both int64 [n], by id.
        """
        if not len(self.ids):
            return np.arange(start, stop), np.arange(start, stop)
        groups, first = np.arange(self.size), np.ones(self.size, bool)
        groups[self.ids], first[self.ids] = self.groups, self.copy_of == self.ids
        chosen = np.flatnonzero(first & (groups >= start) & (groups < stop))
        return chosen, groups[chosen]

    def sizes(self, ids: np.ndarray) -> np.ndarray:
        """int64, of the shape of `ids`: the size of the groups with these names."""
        names, counts = np.unique(self.groups, return_counts=True)
        if not names.size:
            return np.ones(ids.shape, np.int64)
        place = np.minimum(np.searchsorted(names, ids), names.size - 1)
        return np.where(names[place] == ids, counts[place], 1)

    @property
    def repeated(self) -> np.ndarray:
        """int64, the images that are not the first of their group."""
        return self.ids[self.groups != self.ids]

    def summary(self) -> dict[str, int]:
        """Number of images beyond the first of their group, `exact` with the pixels of an earlier one and `near`, and the size of
        the `largest` group."""
        exact = int((self.copy_of != self.ids).sum())
        largest = int(self.sizes(self.groups).max(initial=1))
        return {"exact": exact, "near": self.size - self.distinct - exact, "largest": largest}


def read_groups(store: Store, prepared: str, split: str, size: int) -> Groups:
    """The groups of a split of `size` images."""
    artifact, table = Artifact(store, prepared), DUPLICATES_SCHEMA.empty_table()
    if "distinct" in artifact.info():  # an earlier version has prepared none
        try:
            table = read_table(store, f"{prepared}/{DUPLICATES}", filters=[("split", "==", split)]).sort_by("id")
        except Damaged as damage:
            raise Damaged(damage.keys, damage.reason, artifact.marks) from None
    return Groups(size, *(table.column(name).to_numpy() for name in ("id", "group", "copy_of")))


def duplicates_table(groups: Mapping[Any, Groups]) -> pa.Table:
    """The table of `DUPLICATES`: every image that is not alone in its group."""
    tables = [
        pa.table(
            {"split": [split] * len(each.ids), "id": each.ids, "group": each.groups, "copy_of": each.copy_of},
            DUPLICATES_SCHEMA,
        )
        for split, each in groups.items()
    ]
    return pa.concat_tables(tables)


def split_table(source: ImageSet, indices: np.ndarray, split: str, groups: np.ndarray | None = None) -> pa.Table:
    """The canonical table (`SCHEMA`) of the images `indices` int64 [n] of `source` as one split; `id` is 0 … n − 1.

    Args:
        groups: int64 [n]; absent, each image is a group of its own.
    """
    labels = None if source.labels is None else source.labels[indices]
    return pa.table(
        {
            "id": pa.array(np.arange(len(indices)), pa.int64()),
            "split": pa.array([split] * len(indices), pa.string()),
            "image": image_column(source.images[indices]),
            "label": pa.nulls(len(indices), pa.int64()) if labels is None else pa.array(labels, pa.int64()),
            "group": pa.array(np.arange(len(indices)) if groups is None else groups, pa.int64()),
            "caption": pa.nulls(len(indices), pa.string()),
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
    table = _read_parts(store, prepared, chosen, ["id", "image", "label"])
    labels = table.column("label")
    return ImageSet(
        table.column("id").to_numpy(),
        decode_column(table.column("image")),
        None if labels.null_count == len(labels) else labels.fill_null(-1).to_numpy(),
    )


def pixels_digest(store: Store, prepared: str, split: str) -> str:
    """SHA-256 of the pixels of one split, uint8 [n, H, W, C] in the order of their ids. Raises what `read_split` does."""
    digest = hashlib.sha256()
    for key in part_keys(Artifact(store, prepared)):
        table = read_table(store, key, ["id", "image"], [("split", "==", split)])
        digest.update(decode_column(table.sort_by("id").column("image")).tobytes())
    return digest.hexdigest()


def read_labels(store: Store, prepared: str, split: str) -> np.ndarray | None:
    """int64 [n], the labels of one split by id, −1 where an image has none; None if no image has one."""
    labels = _read_parts(store, prepared, [("split", "==", split)], ["id", "label"]).column("label")
    return None if labels.null_count == len(labels) else labels.fill_null(-1).to_numpy()


def read_captions(store: Store, prepared: str, split: str) -> list[str | None]:
    """The caption of each image of one split by id, None where it has none."""
    table = _read_parts(store, prepared, [("split", "==", split)], ["id", "caption"])
    found: list[str | None] = table.column("caption").to_pylist()
    return found


@dataclass(frozen=True)
class SplitShards(ShardSet):
    """The images of a split, read like shards of samples, of which `sample_id` is the image's id; `directory` holds `prepare`."""

    split: Split = "member"

    def read(self, index: int, columns: list[str] | None = None) -> pa.Table:
        """The images of one shard. Raises what `read_split` does."""
        chosen = [("split", "==", self.split), ("id", ">=", index * self.rows), ("id", "<", (index + 1) * self.rows)]
        table = _read_parts(self.store, self.directory, chosen, ["id", "image"])
        return table.rename_columns(["sample_id", "image"])


FEATURE, MIRRORED = "feature", "mirrored"
"""The columns of stored features: of an image, and of an image mirrored left to right."""


def feature_columns(features: np.ndarray) -> dict[str, pa.Array]:
    """Features float32 [N, d], or [2, N, d] of both orientations, as columns of fixed-size lists."""
    names = (FEATURE,) if features.ndim == 2 else (FEATURE, MIRRORED)
    return {
        name: pa.FixedSizeListArray.from_arrays(pa.array(each.ravel(), pa.float32()), each.shape[1])
        for name, each in zip(names, features.reshape(len(names), *features.shape[-2:]), strict=True)
    }


def decode_features(table: pa.Table) -> np.ndarray:
    """The features of a table, see `feature_columns`."""
    found = []
    for name in (FEATURE, MIRRORED):
        if name in table.column_names:
            values = table.column(name).combine_chunks()
            found.append(values.flatten().to_numpy().reshape(len(values), values.type.list_size))
    return found[0] if len(found) == 1 else np.stack(found)


@dataclass(frozen=True)
class PartFeatures(ShardSet):
    """Features of the prepared images: one shard for each of their files, with as many rows, about `rows`."""

    def size(self, index: int) -> int:
        """About how many rows one shard has."""
        return max(0, super().size(index))

    def fits(self, index: int, rows: int) -> bool:
        return rows > 0


@dataclass(frozen=True)
class StoredFeatures:
    """The stored features of the audit's images: of `parts` files of prepared images, and of reconstructions by split."""

    images: PartFeatures
    parts: int
    again: Mapping[Split, ShardSet]
    prepared: Artifact | None = None
    """The images, which tell what is in which file; without it all files are read."""

    @cached_property
    def _held(self) -> dict[Split, np.ndarray] | None:
        """By split, int64 [parts, 2], the smallest and largest id in each file; None where that is not known."""
        if self.prepared is None:
            return None
        wanted = ["split", "id", "part"]
        try:
            table = read_columns(self.prepared.store, f"{self.prepared.key}/{PLAN}", wanted)
        except Damaged:  # the files tell as well
            return None
        if not set(wanted) <= set(table.column_names):  # the digits have a file for each split
            return None
        found = {}
        for split in SPLITS:
            own = table.filter(pc.equal(table.column("split"), split))
            part, ids = own.column("part").to_numpy(), own.column("id").to_numpy()
            if len(part) and part.max() >= self.parts:
                return None
            held = np.tile([np.iinfo(np.int64).max, -1], (self.parts, 1))
            np.minimum.at(held[:, 0], part, ids)
            np.maximum.at(held[:, 1], part, ids)
            found[split] = held
        return found

    def _files_of(self, split: Split, ids: np.ndarray) -> list[int]:
        """The files that may hold images of a split, given by ascending ids."""
        if self._held is None or not len(ids):
            return list(range(self.parts))
        first, last = self._held[split].T
        # Some id lies within the file's: the next one from its smallest is not beyond its largest.
        following = np.searchsorted(ids, first)
        chosen: list[int] = np.flatnonzero(
            (following < len(ids)) & (ids[np.minimum(following, len(ids) - 1)] <= last)
        ).tolist()
        return chosen

    @property
    def complete(self) -> bool:
        """Whether all are there."""
        expected: list[tuple[ShardSet, int]] = [(self.images, self.parts)]
        expected += [(each, shards_of(each.total or 0, each.rows)) for each in self.again.values()]
        return all(not each.missing(count) for each, count in expected)

    def read(self, split: Split, ids: np.ndarray, into: np.ndarray | None = None) -> np.ndarray:
        """float32 [n, d], the features of images of a split, given by ascending ids; written to `into` if given.

        Raises:
            Damaged: a file is not whole, or images are missing.
        """
        found, left = into, len(ids)
        files = self._files_of(split, ids)
        for part in files:
            table = self.images.read(part)
            own = table.filter(pc.equal(table.column("split"), split))
            place = np.searchsorted(ids, numbers := own.column("id").to_numpy())
            wanted = ids[np.minimum(place, len(ids) - 1)] == numbers
            features = decode_features(own)
            found = np.empty((len(ids), features.shape[1]), np.float32) if found is None else found
            found[place[wanted]] = features[wanted]
            left -= int(wanted.sum())
        if left or found is None:
            keys = [self.images.key(part) for part in files]
            raise Damaged(keys, "do not hold the features of every image")
        return found

    def read_again(self, split: Split, ids: np.ndarray) -> np.ndarray:
        """The same of the reconstructions of these images."""
        shards, found = self.again[split], []
        for shard in np.unique(ids // shards.rows).tolist():
            own = ids[ids // shards.rows == shard]
            found.append(decode_features(shards.read(shard))[own % shards.rows])
        return np.concatenate(found)


def _read_parts(store: Store, prepared: str, chosen: list[Any], columns: list[str] | None = None) -> pa.Table:
    """The chosen rows of the prepared images, sorted by id."""
    artifact = Artifact(store, prepared)
    try:
        parts = whole(lambda key: read_table(store, key, columns, chosen), part_keys(artifact))
    except Damaged as damage:
        # Without its mark, the artifact is not complete, and the deleted parts are made again.
        raise Damaged(damage.keys, damage.reason, artifact.marks) from None
    return pa.concat_tables(parts).sort_by("id")
