import numpy as np
import pytest
from sklearn import datasets

from side_ray.config import DataSection
from side_ray.errors import Damaged, UserError
from side_ray.runs.dataset import DUPLICATES, Groups, duplicates_table, read_groups, read_split, split_table
from side_ray.runs.run import Artifact
from side_ray.sources.published.digits import load_digits
from side_ray.sources.select import SPLITS, split_indices
from side_ray.storage import open_store
from side_ray.storage.sealed import write_table

DATA = DataSection(source="digits", members=40, holdout=30)


def test_digits_fill_the_byte_range_and_stay_distinct():
    source = load_digits()
    raw = datasets.load_digits()
    assert source.images.shape == (1797, 8, 8, 1)
    assert source.images.min() == 0
    assert source.images.max() == 255
    assert len(np.unique(source.images)) == 17
    assert np.array_equal(np.round(source.images[:, :, :, 0] * (16 / 255)), raw.images)
    assert np.array_equal(source.labels, raw.target)


def test_split_is_disjoint_seeded_and_sized():
    first, _ = split_indices(DATA, 200, seed=1)
    assert {name: len(first[name]) for name in SPLITS} == {"member": 40, "calibration": 30, "holdout": 30}
    assert len(np.unique(np.concatenate(list(first.values())))) == 100
    again, other = split_indices(DATA, 200, seed=1)[0], split_indices(DATA, 200, seed=2)[0]
    assert all(np.array_equal(first[name], again[name]) for name in SPLITS)
    assert not np.array_equal(first["member"], other["member"])


def test_too_many_members_names_both_numbers():
    with pytest.raises(UserError, match=r"data\.members: 40 members and twice 30 .* are 100, but digits holds 99"):
        split_indices(DATA, 99, seed=0)


def test_parquet_round_trip_keeps_ids_images_and_labels(tmp_path):
    store, source = open_store(str(tmp_path)), load_digits()
    chosen, _ = split_indices(DATA, len(source), seed=3)
    for number, split in enumerate(SPLITS):
        write_table(store, f"prepare/x/part-{number:06d}.parquet", split_table(source, chosen[split], split))
    for split in SPLITS:
        read = read_split(store, "prepare/x", split)
        assert read.ids.tolist() == list(range(len(chosen[split])))
        assert np.array_equal(read.images, source.images[chosen[split]])
        assert np.array_equal(read.labels, source.labels[chosen[split]])


def test_groups_are_counted_and_read_again(tmp_path):
    store = open_store(str(tmp_path))
    groups = Groups.of(np.array([0, 1, 0, 0, 4, 1]), np.array([7, 3, 8, 7, 1, 3]))
    assert groups.distinct == 3
    assert groups.ids.tolist() == [0, 1, 2, 3, 5]
    assert groups.copy_of.tolist() == [0, 1, 2, 0, 1]
    assert groups.summary() == {"exact": 2, "near": 1, "largest": 3}
    assert groups.sizes(np.array([[4, 0], [1, 4]])).tolist() == [[1, 3], [2, 1]]
    alone = Groups.of(np.arange(4), np.arange(4))
    assert (alone.distinct, alone.summary()) == (4, {"exact": 0, "near": 0, "largest": 1})
    assert alone.sizes(np.arange(4)).tolist() == [1] * 4
    write_table(store, f"prepare/x/{DUPLICATES}", duplicates_table({"member": groups, "holdout": alone}))
    Artifact(store, "prepare/x").finish(distinct={"member": 3, "holdout": 4})
    Artifact(store, "prepare/of-an-earlier-version").finish()
    read = read_groups(store, "prepare/x", "member", 6)
    assert all(np.array_equal(getattr(read, name), getattr(groups, name)) for name in ("ids", "groups", "copy_of"))
    assert read_groups(store, "prepare/x", "holdout", 4).distinct == 4
    assert read_groups(store, "prepare/of-an-earlier-version", "member", 4).distinct == 4
    store.delete(f"prepare/x/{DUPLICATES}")
    with pytest.raises(Damaged):
        read_groups(store, "prepare/x", "member", 6)
