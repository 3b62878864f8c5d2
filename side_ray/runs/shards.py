"""Shards, the unit of distributed work: each is written atomically under a deterministic key, and listing finds them again."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from side_ray.errors import Damaged, joined
from side_ray.runs.run import part_name
from side_ray.storage import Store
from side_ray.storage.sealed import read_json, read_table, write_json, write_table

Key = TypeVar("Key")
Result = TypeVar("Result")

# Magic, a footer of one byte, its length, magic: the shortest possible Parquet file.
SMALLEST_PARQUET = 13
FAILED = "_failed.json"
_FINGERPRINT = b"side_ray.fingerprint"
_NOTE = b"side_ray.note"


def shards_of(samples: int, rows: int) -> int:
    """Number of shards for `samples` rows, `rows` in each."""
    return -(-samples // rows)


def whole(read: Callable[[Key], Result], keys: Iterable[Key]) -> list[Result]:
    """`read` of each key; one `Damaged` for all that raise it."""
    found, damages = [], []
    for key in keys:
        try:
            found.append(read(key))
        except Damaged as damage:
            damages.append(damage)
    if damages:
        raise joined(damages)
    return found


@dataclass(frozen=True)
class ShardSet:
    """The shards of one table: `part-000000.parquet`, `part-000001.parquet`, … with `rows` rows each.

    With `total`, the table has that many rows, and its last shard may be shorter.
    """

    store: Store
    directory: str
    fingerprint: str
    rows: int
    total: int | None = None

    def size(self, index: int) -> int:
        """Number of rows of one shard."""
        return self.rows if self.total is None else min(self.rows, self.total - index * self.rows)

    def fits(self, index: int, rows: int) -> bool:
        """Whether one shard may have so many rows."""
        return rows == self.size(index)

    def key(self, index: int) -> str:
        return f"{self.directory}/{part_name(index)}"

    def _listed(self) -> Iterator[tuple[int, float]]:
        """Index and time of each existing shard, from one listing. Files too short to be Parquet are ignored."""
        for entry in self.store.list(self.directory):
            name = entry.key.rsplit("/", 1)[-1]
            digits = name.removeprefix("part-").removesuffix(".parquet")
            if name == f"part-{digits}.parquet" and digits.isdecimal() and entry.size >= SMALLEST_PARQUET:
                yield int(digits), entry.mtime

    def written(self) -> dict[int, float]:
        """The Unix time (s) at which each existing shard was written, by index, from one listing."""
        return dict(self._listed())

    def present(self) -> set[int]:
        """Indices of the existing shards, from one listing."""
        return {index for index, _ in self._listed()}

    def missing(self, count: int) -> list[int]:
        """Indices of those of the first `count` shards that do not exist, ascending, from one listing."""
        there = bytearray(count)
        for index, _ in self._listed():
            if index < count:
                there[index] = 1
        return [index for index, found in enumerate(there) if not found]

    def has(self, index: int) -> bool:
        """Whether one shard exists, without a listing."""
        size = self.store.size(self.key(index))
        return size is not None and size >= SMALLEST_PARQUET

    def write(self, index: int, table: pa.Table, note: str = "") -> None:
        """Write one shard atomically. `note` states why its last bits may differ. Raises ValueError for a wrong row count."""
        if not self.fits(index, table.num_rows):
            raise ValueError(f"shard {index} has {self.size(index)} rows, not {table.num_rows}")
        metadata = {**(table.schema.metadata or {}), _FINGERPRINT: self.fingerprint.encode()}
        if note:
            metadata[_NOTE] = note.encode()
        write_table(self.store, self.key(index), table.replace_schema_metadata(metadata))

    def read(self, index: int, columns: list[str] | None = None) -> pa.Table:
        """Read one shard.

        Raises:
            Damaged: the file is missing, is not whole, has another number of rows, or belongs to another plan.
        """
        key = self.key(index)
        table = read_table(self.store, key, columns)
        own = (table.schema.metadata or {}).get(_FINGERPRINT) == self.fingerprint.encode()
        if not own or not self.fits(index, table.num_rows):
            raise Damaged([key], "is not a shard of this plan")
        return table

    def record_failures(self, reasons: dict[int, str]) -> None:
        """Write the failed shards and their reasons to `_failed.json` beside the shards; delete that file if none failed."""
        key = f"{self.directory}/{FAILED}"
        if reasons:
            write_json(self.store, key, {str(index): reason for index, reason in reasons.items()})
        elif self.store.exists(key):
            self.store.delete(key)

    def failures(self) -> dict[int, str]:
        """The failed shards and their reasons, as last recorded by `record_failures`."""
        key = f"{self.directory}/{FAILED}"
        if not self.store.exists(key):
            return {}
        try:
            return {int(index): str(reason) for index, reason in read_json(self.store, key).items()}
        except (Damaged, ValueError, AttributeError):
            return {}

    def read_first(self, count: int, columns: list[str] | None = None) -> pa.Table:
        """The first `count` shards as one table, in order. Raises what `read` does, for all damaged shards at once."""
        return pa.concat_tables(whole(lambda index: self.read(index, columns), range(count)))
