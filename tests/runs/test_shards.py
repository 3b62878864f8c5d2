import pyarrow as pa
import pytest

from side_ray.errors import Damaged
from side_ray.runs.shards import ShardSet
from side_ray.storage import open_store


@pytest.fixture
def shards(tmp_path):
    return ShardSet(open_store(str(tmp_path)), "samples/ab/method=td/lambda=5.0", "ab", rows=3)


def table(first: int, rows: int = 3) -> pa.Table:
    return pa.table({"sample_id": range(first, first + rows)})


def test_written_shards_are_found_and_read(shards):
    assert shards.missing(3) == [0, 1, 2]
    shards.write(1, table(3))
    assert shards.present() == {1}
    assert shards.missing(3) == [0, 2]
    assert shards.missing(1) == [0]
    assert [shards.has(index) for index in range(3)] == [False, True, False]
    assert shards.read(1).column("sample_id").to_pylist() == [3, 4, 5]


def test_the_first_shards_make_one_table_in_order(shards):
    for index in (2, 0, 1):
        shards.write(index, table(3 * index))
    assert shards.read_first(2).column("sample_id").to_pylist() == list(range(6))


def test_a_shard_of_another_size_is_never_written(shards):
    with pytest.raises(ValueError, match="3 rows, not 2"):
        shards.write(0, table(0, rows=2))


def test_foreign_names_and_empty_files_do_not_count(shards):
    for name in ("part-1.txt", "hits-000001.parquet", "part-x.parquet", ".part-000002.parquet.tmp"):
        shards.store.write(f"{shards.directory}/{name}", b"0" * 99)
    shards.store.write(shards.key(7), b"")
    assert shards.present() == set()
    assert not shards.has(7)


def test_truncated_and_foreign_shards_are_damaged(shards):
    shards.write(0, table(0))
    whole = shards.store.read(shards.key(0))
    shards.store.write(shards.key(0), whole[: len(whole) // 2])
    with pytest.raises(Damaged):
        shards.read(0)
    other = ShardSet(shards.store, shards.directory, "another plan", rows=3)
    other.write(0, table(0))
    with pytest.raises(Damaged, match="not a shard of this plan"):
        shards.read(0)
    longer = ShardSet(shards.store, shards.directory, "ab", rows=4)
    longer.write(0, table(0, rows=4))
    with pytest.raises(Damaged):
        shards.read(0)


def test_an_absent_shard_is_damage_too(shards):
    with pytest.raises(Damaged, match="is missing"):
        shards.read(0)
