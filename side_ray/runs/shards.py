"""Shards: the unit of distributed work, written whole under a deterministic key, found again by listing."""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from side_ray.runs.dataset import to_parquet
from side_ray.storage import Store

# Magic, one byte of footer and its length, magic: no Parquet file is shorter.
SMALLEST_PARQUET = 13
FAILED = "_failed.json"
_FINGERPRINT = b"side_ray.fingerprint"
_NOTE = b"side_ray.note"


class DamagedShard(Exception):
    """A shard's file is not that shard: it is cut short, or belongs to another plan. `key` is to be deleted and made again."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key, self.reason = key, reason

    def __str__(self) -> str:
        return f"{self.key} {self.reason}"


def shards_of(samples: int, rows: int) -> int:
    """Shards that hold `samples` rows, `rows` in each."""
    return -(-samples // rows)


@dataclass(frozen=True)
class ShardSet:
    """The shards of one table: `part-000000.parquet`, `part-000001.parquet`, … of `rows` rows each.

    With `total` given, the table has that many rows, and its last shard may be a shorter one.
    """

    store: Store
    directory: str
    fingerprint: str
    rows: int
    total: int | None = None

    def size(self, index: int) -> int:
        """Rows of one shard."""
        return self.rows if self.total is None else min(self.rows, self.total - index * self.rows)

    def key(self, index: int) -> str:
        return f"{self.directory}/part-{index:06d}.parquet"

    def written(self) -> dict[int, float]:
        """When each shard that is there was written (seconds since 1970), by one listing.

        A file too short to be Parquet does not count.
        """
        found = {}
        for entry in self.store.list(self.directory):
            name = entry.key.rsplit("/", 1)[-1]
            digits = name.removeprefix("part-").removesuffix(".parquet")
            if name == f"part-{digits}.parquet" and digits.isdecimal() and entry.size >= SMALLEST_PARQUET:
                found[int(digits)] = entry.mtime
        return found

    def present(self) -> set[int]:
        """Indices of the shards that are there."""
        return set(self.written())

    def missing(self, count: int) -> list[int]:
        """Those of the first `count` shards that are still to be made, in ascending order."""
        return sorted(set(range(count)) - self.present())

    def write(self, index: int, table: pa.Table, note: str = "") -> None:
        """Put one shard, whole. `note` marks a shard whose last bits may differ, and why."""
        if table.num_rows != self.size(index):
            raise ValueError(f"shard {index} has {self.size(index)} rows, not {table.num_rows}")
        metadata = {**(table.schema.metadata or {}), _FINGERPRINT: self.fingerprint.encode()}
        if note:
            metadata[_NOTE] = note.encode()
        self.store.write(self.key(index), to_parquet(table.replace_schema_metadata(metadata)))

    def read(self, index: int, columns: list[str] | None = None) -> pa.Table:
        """One shard.

        Raises:
            DamagedShard: the file is cut short, has another number of rows, or belongs to another plan.
            FileNotFoundError: there is none.
        """
        key = self.key(index)
        try:
            with self.store.open_input(key) as source:
                file = pq.ParquetFile(source)
                metadata: dict[bytes, Any] = file.schema_arrow.metadata or {}
                if metadata.get(_FINGERPRINT) != self.fingerprint.encode() or file.metadata.num_rows != self.size(
                    index
                ):
                    raise DamagedShard(key, "is not a shard of this plan")
                return file.read(columns)
        except pa.ArrowInvalid as error:
            raise DamagedShard(key, f"cannot be read: {error}") from error

    def record_failures(self, reasons: dict[int, str]) -> None:
        """Write beside the shards which of them failed and why, or remove that file where none did."""
        key = f"{self.directory}/{FAILED}"
        if reasons:
            self.store.write(
                key, json.dumps({str(index): reason for index, reason in reasons.items()}, indent=1).encode()
            )
        elif self.store.exists(key):
            self.store.delete(key)

    def failures(self) -> dict[int, str]:
        """What `record_failures` wrote last."""
        key = f"{self.directory}/{FAILED}"
        if not self.store.exists(key):
            return {}
        return {int(index): reason for index, reason in json.loads(self.store.read(key)).items()}

    def read_first(self, count: int, columns: list[str] | None = None) -> pa.Table:
        """The first `count` shards as one table, in order."""
        return pa.concat_tables([self.read(index, columns) for index in range(count)])
