"""A sealed file is read as it was written, or not at all: every bit of it counts."""

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from side_ray.errors import Damaged
from side_ray.storage import Store, open_store
from side_ray.storage.sealed import (
    check_parquet,
    open_json,
    read_columns,
    read_json,
    read_table,
    write_json,
    write_table,
)

TABLE, JSON = "samples/ab/method=td/lambda=5.0/part-000003.parquet", "surrogate/ab/labels.json"
ROWS = pa.table({"id": range(60), "name": [f"image {i}" for i in range(60)]})


@pytest.fixture
def store(tmp_path) -> Store:
    found = open_store(str(tmp_path))
    write_table(found, TABLE, ROWS.slice(0, 40), ROWS.slice(40))
    write_json(found, JSON, {"classes": 5, "sizes": [1, 2.5]})
    return found


def test_what_was_written_is_read(store, tmp_path):
    assert read_table(store, TABLE).equals(ROWS)
    assert read_table(store, TABLE, ["id"], [("id", ">", 57)]).column("id").to_pylist() == [58, 59]
    assert read_columns(store, TABLE, ["name"]).equals(ROWS.select(["name"]))
    assert read_json(store, JSON) == {"classes": 5, "sizes": [1, 2.5]}
    assert pq.ParquetFile(tmp_path / TABLE).num_row_groups == 2
    assert json.loads((tmp_path / JSON).read_text())["sealed"]["key"] == JSON


def test_no_flipped_bit_of_a_table_is_read(store):
    data = store.read(TABLE)
    for where in random.Random(0).sample(range(8 * len(data)), 1500):
        flipped = bytearray(data)
        flipped[where // 8] ^= 1 << where % 8
        with pytest.raises(Damaged):
            check_parquet(TABLE, bytes(flipped))


def test_a_flipped_bit_of_a_json_file_changes_nothing_that_is_read(store):
    data = store.read(JSON)
    for where in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[where // 8] ^= 1 << where % 8
        try:
            found = open_json(JSON, bytes(flipped))[0]
        except Damaged:
            continue
        # A flip in the name of the seal leaves a file without one.
        assert {"classes": 5, "sizes": [1, 2.5]}.items() <= found.items()


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\x00\xff" * 500, "half"])
@pytest.mark.parametrize("key", [TABLE, JSON])
def test_rubbish_is_damage(store, key, content):
    whole = store.read(key)
    store.write(key, whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(Damaged) as caught:
        read_table(store, key) if key == TABLE else read_json(store, key)
    assert caught.value.keys == [key]
    assert "\n" not in str(caught.value)


def test_a_copy_of_another_file_is_damage(store):
    for key, read in ((TABLE, read_table), (JSON, read_json)):
        other = key.replace("ab", "cd")
        store.write(other, store.read(key))
        with pytest.raises(Damaged, match=f"{other} is a copy of {key}"):
            read(store, other)
    with pytest.raises(Damaged, match="is a copy of"):
        read_columns(store, TABLE.replace("ab", "cd"))


def test_a_missing_table_is_damage_and_a_missing_json_file_is_missing(store):
    with pytest.raises(Damaged, match="is missing"):
        read_table(store, "no/part-000000.parquet")
    with pytest.raises(Damaged, match="is missing"):
        read_columns(store, "no/part-000000.parquet")
    with pytest.raises(FileNotFoundError):
        read_json(store, "no/labels.json")


def test_a_damaged_page_is_found_by_those_who_read_a_part(store):
    data = bytearray(store.read(TABLE))
    chunk = pq.ParquetFile(pa.BufferReader(bytes(data))).metadata.row_group(0).column(1)
    data[chunk.dictionary_page_offset + chunk.total_compressed_size - 4] ^= 1
    store.write(TABLE, bytes(data))
    assert len(read_columns(store, TABLE, ["id"])) == 60
    with pytest.raises(Damaged):
        read_columns(store, TABLE, ["name"])


def test_a_table_of_an_earlier_version_is_accepted_and_sealed(store, tmp_path):
    pq.write_table(ROWS, tmp_path / TABLE, row_group_size=40)
    assert read_table(store, TABLE, ["id"]).num_rows == 60
    assert check_parquet(TABLE, store.read(TABLE))
    assert read_table(store, TABLE).equals(ROWS)
    assert pq.ParquetFile(tmp_path / TABLE).num_row_groups == 2
