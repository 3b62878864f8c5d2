"""Selects the members, the calibration and the holdout images. Works on numbers alone, a few tens of bytes per image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from side_ray.config import DataSection
from side_ray.errors import UserError

DIGEST_BYTES = 16
Split = Literal["member", "calibration", "holdout"]
SPLITS: tuple[Split, ...] = ("member", "calibration", "holdout")


@dataclass(frozen=True)
class Census:
    """A table of the images of all pools, in the order of pools, units and records.

    Attributes:
        unit, position: int32 [N], number of the unit and of the record in it.
        pool: int8 [N].
        usable: bool [N].
        digest: `DIGEST_BYTES`-byte hashes of the pixels [N], zeros where not usable.
        label: int64 [N], index into `names`; -1 = none.
        names: names of the classes.
    """

    unit: np.ndarray
    position: np.ndarray
    pool: np.ndarray
    usable: np.ndarray
    digest: np.ndarray
    label: np.ndarray
    names: list[str]

    @classmethod
    def of(cls, tables: Sequence[pa.Table], pools: Sequence[int]) -> "Census":
        """From the scans of all units, with columns `digest` (null = not usable) and `label`; `pools` is the pool of each
        unit."""
        sizes = [table.num_rows for table in tables]
        digests = pa.chunked_array(
            [chunk for table in tables for chunk in table.column("digest").chunks], pa.binary(DIGEST_BYTES)
        )
        labels = pa.chunked_array([chunk for table in tables for chunk in table.column("label").chunks], pa.string())
        codes = labels.combine_chunks().dictionary_encode()
        empty = pa.scalar(bytes(DIGEST_BYTES), pa.binary(DIGEST_BYTES))
        return cls(
            unit=np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
            position=np.concatenate([np.arange(size, dtype=np.int32) for size in sizes]),
            pool=np.repeat(np.asarray(pools, np.int8), sizes),
            usable=digests.is_valid().to_numpy(),
            digest=np.frombuffer(
                b"".join(digests.fill_null(empty).combine_chunks().to_pylist()), np.dtype((np.void, DIGEST_BYTES))
            ),
            label=codes.indices.fill_null(-1).to_numpy().astype(np.int64),
            names=codes.dictionary.to_pylist(),
        )

    def distinct(self) -> np.ndarray:
        """Indices of usable images, ascending, without those whose pixels equal an earlier image's."""
        usable = np.flatnonzero(self.usable)
        _, first = np.unique(self.digest[usable], return_index=True)
        return usable[np.sort(first)]


def without_near(indices: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """`indices` (ascending) without those that are near an earlier one that is kept.

    Args:
        pairs: int64 [P, 2], indices of two images that are near each other, in either order.
    """
    earlier: dict[int, list[int]] = {}
    for first, second in np.sort(pairs, axis=1).tolist():
        earlier.setdefault(second, []).append(first)
    gone: set[int] = set()
    for index in sorted(earlier):
        if any(other not in gone for other in earlier[index]):
            gone.add(index)
    return indices[~np.isin(indices, np.fromiter(gone, np.int64, len(gone)))]


def capped(census: Census, indices: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """At most `per_class` random images of each class and pool, ascending; images without a label are kept."""
    order = indices[np.random.default_rng([seed, 4]).permutation(len(indices))]
    group = census.label[order] * 2 + census.pool[order]
    by_group = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(group[by_group]) != 0])
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    kept = by_group[(rank < per_class) | (census.label[order][by_group] < 0)]
    return np.sort(order[kept])


@dataclass(frozen=True)
class Chosen:
    """The split: for each split the census indices of its images, ascending, so that ids follow the source's order; and
    the class number of each name in `Census.names`, -1 = no member has it. With fewer than two classes there are
    no labels."""

    rows: dict[Split, np.ndarray]
    class_of: np.ndarray
    class_names: list[str]


def choose(census: Census, candidates: np.ndarray, data: DataSection, seed: int) -> Chosen:
    """Draw the three sets from the candidates, and number the members' classes: in order of value if all names are integers.

    Raises:
        UserError: there are too few candidates.
    """
    first = candidates[census.pool[candidates] == 0]
    second = candidates[census.pool[candidates] == 1] if data.holdout_path else None
    drawn = split_indices(data, len(first), seed, None if second is None else len(second))
    joined = first if second is None else np.concatenate([first, second])
    rows = {split: joined[np.sort(drawn[split])] for split in SPLITS}
    present = np.unique(census.label[rows["member"]])
    names = {int(code): census.names[code] for code in present if code >= 0}
    names = names if len(names) > 1 else {}
    numeric = all(name.removeprefix("-").isdecimal() for name in names.values())
    ordered = sorted(names, key=lambda code: (int(names[code]) if numeric else 0, names[code]))
    class_of = np.full(len(census.names) + 1, -1, np.int64)
    class_of[ordered] = np.arange(len(ordered))
    return Chosen(rows, class_of, [names[code] for code in ordered])


def copies_across(census: Census, chosen: Chosen) -> int:
    """Number of unseen images whose pixels equal a member's."""
    unseen = np.concatenate([chosen.rows[split] for split in SPLITS[1:]])
    return int(np.isin(census.digest[unseen], census.digest[chosen.rows["member"]]).sum())


def check_sizes(data: DataSection, total: int, apart: int | None = None) -> None:
    """Refuse a split that needs more images than there are.

    Args:
        total: images in the source.
        apart: images in `data.holdout_path`, None without one.

    Raises:
        UserError: there are too few images.
    """
    behind = f" behind the first {data.skip}" if data.skip else ""
    total = max(0, total - data.skip)
    if apart is None:
        needed = data.members + 2 * data.holdout
        if needed > total:
            raise UserError(
                f"{data.members} members and twice {data.holdout} unseen images are {needed}, "
                f"but {data.source} holds {total}{behind}; lower data.members or data.holdout",
                "data.members",
            )
        return
    if data.members > total:
        raise UserError(
            f"{data.members} are wanted, but {data.path} holds {total} images{behind}; lower data.members",
            "data.members",
        )
    if 2 * data.holdout > apart:
        raise UserError(
            f"twice {data.holdout} unseen images are wanted, but {data.holdout_path} holds {apart}; lower data.holdout",
            "data.holdout",
        )


def split_indices(data: DataSection, total: int, seed: int, apart: int | None = None) -> dict[Split, np.ndarray]:
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
