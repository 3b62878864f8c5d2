"""Shards, the unit of distributed work: each is written atomically under a deterministic key, and listing finds them again."""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from side_ray.runs.dataset import to_parquet
from side_ray.storage import Store

# Magic, a footer of one byte, its length, magic: the shortest possible Parquet file.
SMALLEST_PARQUET = 13
FAILED = "_failed.json"
_FINGERPRINT = b"side_ray.fingerprint"
_NOTE = b"side_ray.note"


class DamagedShard(Exception):
    """A file is not the expected shard: it is truncated or belongs to another plan. Delete `key` and make the shard again."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key, self.reason = key, reason

    def __str__(self) -> str:
        return f"{self.key} {self.reason}"


def shards_of(samples: int, rows: int) -> int:
    """Number of shards for `samples` rows, `rows` in each."""
    return -(-samples // rows)


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

    def key(self, index: int) -> str:
        return f"{self.directory}/part-{index:06d}.parquet"

    def written(self) -> dict[int, float]:
        """The Unix time (s) at which each existing shard was written, by index, from one listing.

        Files too short to be Parquet are ignored.
        """
        found = {}
        for entry in self.store.list(self.directory):
            name = entry.key.rsplit("/", 1)[-1]
            digits = name.removeprefix("part-").removesuffix(".parquet")
            if name == f"part-{digits}.parquet" and digits.isdecimal() and entry.size >= SMALLEST_PARQUET:
                found[int(digits)] = entry.mtime
        return found

    def present(self) -> set[int]:
        """Indices of the existing shards."""
        return set(self.written())

    def missing(self, count: int) -> list[int]:
        """Indices of those of the first `count` shards that do not exist, ascending."""
        return sorted(set(range(count)) - self.present())

    def write(self, index: int, table: pa.Table, note: str = "") -> None:
        """Write one shard atomically. `note` states why its last bits may differ. Raises ValueError for a wrong row count."""
        if table.num_rows != self.size(index):
            raise ValueError(f"shard {index} has {self.size(index)} rows, not {table.num_rows}")
        metadata = {**(table.schema.metadata or {}), _FINGERPRINT: self.fingerprint.encode()}
        if note:
            metadata[_NOTE] = note.encode()
        self.store.write(self.key(index), to_parquet(table.replace_schema_metadata(metadata)))

    def read(self, index: int, columns: list[str] | None = None) -> pa.Table:
        """Read one shard.

        Raises:
            DamagedShard: the file is truncated, has another number of rows, or belongs to another plan.
            FileNotFoundError: the shard does not exist.
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
        """Write the failed shards and their reasons to `_failed.json` beside the shards; delete that file if none failed."""
        key = f"{self.directory}/{FAILED}"
        if reasons:
            self.store.write(
                key, json.dumps({str(index): reason for index, reason in reasons.items()}, indent=1).encode()
            )
        elif self.store.exists(key):
            self.store.delete(key)

    def failures(self) -> dict[int, str]:
        """The failed shards and their reasons, as last recorded by `record_failures`."""
        key = f"{self.directory}/{FAILED}"
        if not self.store.exists(key):
            return {}
        return {int(index): reason for index, reason in json.loads(self.store.read(key)).items()}

    def read_first(self, count: int, columns: list[str] | None = None) -> pa.Table:
        """The first `count` shards as one table, in order. Raises what `read` does."""
        return pa.concat_tables([self.read(index, columns) for index in range(count)])
