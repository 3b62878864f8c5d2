"""Sealed files: each says which file of the run it is, and holds a SHA-256 of its content, which reading checks.

The key of a file in the run (`samples/ab12…/method=td/lambda=5.0/part-000003.parquet`) names its stage, its fingerprint, its
condition and its number. A sealed file holds its own key, so that a copy in another place is not taken for the file there.

- Parquet: the footer's key-value metadata has `side_ray.key` and `side_ray.sha256`, the digest of the whole file with this digest
  itself replaced by zeros. Pages also have checksums, for readers of a part of the file.
- JSON: an object has the entry `sealed` with `key` and `sha256`, the digest of the object without this entry, see `canonical`.

Files of earlier versions have no seal. They are accepted as they are, and sealed when they are first read whole.
"""

import hashlib
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from side_ray.errors import Damaged
from side_ray.storage.base import Store

KEY, DIGEST = b"side_ray.key", b"side_ray.sha256"
SEALED = "sealed"
MISSING = "is missing"
_ZEROS = b"0" * 64
# In Thrift's compact encoding of the footer, a value of 64 bytes follows its key as a field header and a length.
_VALUE = DIGEST + b"\x18\x40"
UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, EOFError)
"""What reading bytes that are not whole Parquet may raise."""


def write_table(store: Store, key: str, *tables: pa.Table, rows: int | None = None) -> bytes:
    """Write tables of one schema as one sealed Parquet file, atomically.

    Each table starts a new row group; a row group has at most `rows` rows. Returns what was written.
    """
    data = _parquet(key, tables, rows)
    store.write(key, data)
    return data


def _parquet(key: str, tables: tuple[pa.Table, ...], rows: int | None = None) -> bytes:
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, tables[0].schema, compression="zstd", write_page_checksum=True) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=rows)
        writer.add_key_value_metadata({KEY: key.encode(), DIGEST: _ZEROS})
    data = buffer.getvalue()
    start = data.rindex(_VALUE) + len(_VALUE)
    return b"".join([data[:start], hashlib.sha256(data).hexdigest().encode(), data[start + len(_ZEROS) :]])


def read_table(store: Store, key: str, columns: list[str] | None = None, filters: Any = None) -> pa.Table:
    """Read a Parquet file of the run whole, and check its seal.

    Args:
        columns: the columns to return; None = all.
        filters: as for `pyarrow.parquet.read_table`.

    Raises:
        Damaged: the file is missing, not whole, not Parquet, or a copy of another file.
    """
    data, _ = _checked(store, key)
    try:
        return pq.read_table(pa.BufferReader(data), columns=columns, filters=filters)
    except UNREADABLE as error:
        raise Damaged([key], f"cannot be read ({_reason(error)})") from error


def sealed_table(store: Store, key: str) -> bool:
    """Whether a Parquet file of the run has a seal; one without is accepted, and sealed now. Raises what `read_table` does."""
    return _checked(store, key)[1]


def _checked(store: Store, key: str) -> tuple[bytes, bool]:
    """The content of a Parquet file, and whether it had a seal before."""
    try:
        data = store.read(key)
    except FileNotFoundError:
        raise Damaged([key], MISSING) from None
    if check_parquet(key, data):
        return data, True
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        groups = [file.read_row_group(index) for index in range(file.num_row_groups)]
        store.write(key, _parquet(key, tuple(groups) or (file.read(),)))
    except UNREADABLE as error:
        raise Damaged([key], f"cannot be read ({_reason(error)})") from error
    return data, False


def check_parquet(key: str, data: bytes) -> bool:
    """Whether the content of a Parquet file has a seal.

    Raises:
        Damaged: the seal does not fit the content or the key.
    """
    start = data.rfind(_VALUE) + len(_VALUE)
    if start < len(_VALUE):
        if KEY in data:
            raise Damaged([key], "is damaged (it has lost its digest)")
        return False
    digest = hashlib.sha256(memoryview(data)[:start])
    digest.update(_ZEROS)
    digest.update(memoryview(data)[start + len(_ZEROS) :])
    if digest.hexdigest().encode() != data[start : start + len(_ZEROS)]:
        raise Damaged([key], "is damaged (its content does not fit its digest)")
    try:
        own = pq.read_metadata(pa.BufferReader(data)).metadata[KEY].decode()
    except UNREADABLE as error:
        raise Damaged([key], f"cannot be read ({_reason(error)})") from error
    if own != key:
        raise Damaged([key], f"is a copy of {own}")
    return True


def read_columns(store: Store, key: str, columns: list[str] | None = None, filters: Any = None) -> pa.Table:
    """Read some columns or row groups of a Parquet file without reading the rest, and check the checksums of their pages.

    Raises:
        Damaged: as for `read_table`, where it is in what is read.
    """
    try:
        with store.open_input(key) as source:
            own = (pq.read_metadata(source).metadata or {}).get(KEY, key.encode()).decode(errors="replace")
            if own != key:
                raise Damaged([key], f"is a copy of {own}")
            source.seek(0)
            if filters is None:  # the only way to read one field of a struct
                return pq.ParquetFile(source, page_checksum_verification=True).read(columns)
            return pq.read_table(source, columns=columns, filters=filters, page_checksum_verification=True)
    except FileNotFoundError:
        raise Damaged([key], MISSING) from None
    except UNREADABLE as error:
        raise Damaged([key], f"cannot be read ({_reason(error)})") from error


def canonical(value: dict[str, Any]) -> bytes:
    """The JSON of an object whose SHA-256 seals it: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def write_json(store: Store, key: str, value: Any) -> bytes:
    """Write a JSON value atomically, an object with its seal. Returns what was written."""
    if isinstance(value, dict):
        value = {**value, SEALED: {"key": key, "sha256": hashlib.sha256(canonical(value)).hexdigest()}}
    data = json.dumps(value, indent=1, allow_nan=False).encode()
    store.write(key, data)
    return data


def read_json(store: Store, key: str) -> Any:
    """Read a JSON value of the run; an object comes without its seal.

    Raises:
        Damaged: the file is not whole, or a copy of another one.
        FileNotFoundError: there is none.
    """
    return open_json(key, store.read(key))[0]


def open_json(key: str, data: bytes) -> tuple[Any, bool]:
    """The value in the content of a JSON file, an object without its seal, and whether it has one. Raises Damaged."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Damaged([key], f"is damaged ({_reason(error)})") from error
    if not isinstance(value, dict) or SEALED not in value:
        return value, False
    seal = value.pop(SEALED)
    own = seal.get("key") if isinstance(seal, dict) else None
    if own is None or seal.get("sha256") != hashlib.sha256(canonical(value)).hexdigest():
        raise Damaged([key], "is damaged (its content does not fit its digest)")
    if own != key:
        raise Damaged([key], f"is a copy of {own}")
    return value, True


def digest_of(store: Store, key: str) -> str:
    """SHA-256 of a file of any size, as hex digits. Raises FileNotFoundError."""
    digest = hashlib.sha256()
    with store.open_input(key) as file:
        while block := file.read(16 << 20):
            digest.update(block)
    return digest.hexdigest()


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
