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

    def contents(self) -> np.ndarray:
        """int64 [N]: the same number for images with the same pixels, −1 where not usable."""
        numbers = np.full(len(self.usable), -1, np.int64)
        numbers[self.usable] = np.unique(self.digest[self.usable], return_inverse=True)[1]
        return numbers

    def distinct(self) -> np.ndarray:
        """Indices of usable images, ascending, without those whose pixels equal an earlier image's."""
        usable = np.flatnonzero(self.usable)
        _, first = np.unique(self.digest[usable], return_index=True)
        return usable[np.sort(first)]


@dataclass(frozen=True)
class Alike:
    """Which images of a source show the same.

    Attributes:
        contents: int64 [N]; images with the same number have the same pixels.
        pairs: int64 [P, 2], contents that are near duplicates.
        shares: float64 [P], how much they differ, see `similarity.duplicates`.
    """

    contents: np.ndarray
    pairs: np.ndarray
    shares: np.ndarray

    def of(self, indices: np.ndarray) -> "Alike":
        """The same for these images only, int64 [n]."""
        return Alike(self.contents[indices], self.pairs, self.shares)

    def copies(self, chosen: np.ndarray) -> np.ndarray:
        """bool [N]: images equal to one of `chosen` (indices, or bool [N]), or a near duplicate of it."""
        contents = np.unique(self.contents[chosen])
        near = self.pairs[np.isin(self.pairs, contents).any(axis=1)]
        return np.isin(self.contents, np.concatenate([contents, near.ravel()]))

    def equal(self, chosen: np.ndarray) -> np.ndarray:
        """bool [N]: images equal to one of `chosen`."""
        return np.isin(self.contents, self.contents[chosen])


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
    """At most `per_class` random images of each class, ascending; images without a label, or of `data.holdout_path`, are kept."""
    order = indices[np.random.default_rng([seed, 4]).permutation(len(indices))]
    group = census.label[order] * 2 + census.pool[order]
    by_group = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(group[by_group]) != 0])
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    free = (census.label[order] < 0) | (census.pool[order] == 1)
    kept = by_group[(rank < per_class) | free[by_group]]
    return np.sort(order[kept])


@dataclass(frozen=True)
class Chosen:
    """The split: for each split the census indices of its images, ascending, so that ids follow the source's order; and
    the class number of each name in `Census.names`, -1 = no member has it. With fewer than two classes there are
    no labels. `left_out`: how many images were kept out of the unseen sets, see `split_indices`."""

    rows: dict[Split, np.ndarray]
    class_of: np.ndarray
    class_names: list[str]
    left_out: dict[str, int]


def choose(
    census: Census,
    candidates: np.ndarray,
    data: DataSection,
    seed: int,
    alike: Alike | None = None,
    taken: np.ndarray | None = None,
) -> Chosen:
    """Draw the three sets from the candidates, and number the members' classes: in order of value if all names are integers.

    Args:
        alike: of the images of the census.
        taken: bool [N], images of the census that none of the sets may hold.

    Raises:
        UserError: there are too few candidates.
    """
    first = candidates[census.pool[candidates] == 0]
    second = candidates[census.pool[candidates] == 1] if data.holdout_path else None
    joined = first if second is None else np.concatenate([first, second])
    drawn, left_out = split_indices(
        data,
        len(first),
        seed,
        None if second is None else len(second),
        None if alike is None else alike.of(joined),
        None if taken is None else taken[joined],
    )
    rows = {split: joined[np.sort(drawn[split])] for split in SPLITS}
    present = np.unique(census.label[rows["member"]])
    names = {int(code): census.names[code] for code in present if code >= 0}
    names = names if len(names) > 1 else {}
    numeric = all(name.removeprefix("-").isdecimal() for name in names.values())
    ordered = sorted(names, key=lambda code: (int(names[code]) if numeric else 0, names[code]))
    class_of = np.full(len(census.names) + 1, -1, np.int64)
    class_of[ordered] = np.arange(len(ordered))
    return Chosen(rows, class_of, [names[code] for code in ordered], left_out)


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


def split_indices(
    data: DataSection,
    total: int,
    seed: int,
    apart: int | None = None,
    alike: Alike | None = None,
    taken: np.ndarray | None = None,
) -> tuple[dict[Split, np.ndarray], dict[str, int]]:
    """Disjoint random positions for members, calibration and holdout, each int64 and in random order.

    Copies of members would be matched as often as members, so neither they nor near duplicates of members come into the unseen
    sets; the next images of the order take their places.

    Args:
        total: images in the source.
        apart: images in `data.holdout_path`; their positions are `total` … `total + apart` − 1.
        alike: of all positions.
        taken: bool, the positions that no set may hold.

    Returns:
        The positions, and how many images were left out of the unseen sets: `exact` copies of members and `near` ones.

    Raises:
        UserError: there are fewer images than the three sets need.
    """
    check_sizes(data, total, apart)
    order = np.random.default_rng([seed, 0]).permutation(total)[data.skip :]
    if taken is not None:
        order = order[~taken[order]]
        needed = data.members + (2 * data.holdout if apart is None else 0)
        if len(order) < needed:
            raise UserError(f"{needed} are wanted, but only {len(order)} images are no copies of others in use")
    members, unseen = order[: data.members], order[data.members :]
    if apart is not None:
        unseen = total + np.random.default_rng([seed, 3]).permutation(apart)
    wanted, left_out = 2 * data.holdout, {"exact": 0, "near": 0}
    if alike is not None and wanted:
        copies, equal = alike.copies(members)[unseen], alike.equal(members)[unseen]
        usable = np.flatnonzero(~copies)
        if len(usable) < wanted:
            raise _too_few_unseen(data, len(unseen), int(copies.sum()), apart is not None)
        passed = slice(usable[wanted - 1] + 1)
        left_out = {"exact": int(equal[passed].sum()), "near": int((copies & ~equal)[passed].sum())}
        unseen = unseen[usable]
    sets = members, unseen[: data.holdout], unseen[data.holdout : wanted]
    return dict(zip(SPLITS, sets, strict=True)), left_out


def _too_few_unseen(data: DataSection, total: int, copies: int, apart: bool) -> UserError:
    left = (total - copies) // 2
    where = f"of {data.holdout_path}" if apart else "beside the members"
    lower = f", or lower data.holdout to {left}" if left else ""
    return UserError(
        f"twice {data.holdout} unseen images are wanted, but {copies:,} of the {total:,} images {where} are copies of members or "
        f"nearly so; give images that the model never saw as data.holdout_path{lower}",
        "data.holdout",
    )
