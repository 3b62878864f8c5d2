import numpy as np
import pyarrow as pa
import pytest

from side_ray.config import DataSection
from side_ray.errors import UserError
from side_ray.sources.select import DIGEST_BYTES, Alike, Census, capped, choose, without_near


def census(digests: list[list[int | None]], labels: list[list[str | None]] | None = None, pools=(0, 0, 0)) -> Census:
    """One table per unit; equal numbers are equal pixels, None is an unusable image."""
    tables = []
    for unit, numbers in enumerate(digests):
        hashes = [None if number is None else number.to_bytes(DIGEST_BYTES, "big") for number in numbers]
        names = labels[unit] if labels else [None] * len(numbers)
        columns = {"digest": pa.array(hashes, pa.binary(DIGEST_BYTES)), "label": pa.array(names, pa.string())}
        tables.append(pa.table(columns))
    return Census.of(tables, pools[: len(digests)])


def data(**options) -> DataSection:
    return DataSection(source="folder", path="x", **{"members": 2, "holdout": 1, **options})  # type: ignore[arg-type]


def test_census_keeps_the_order_and_the_place_of_every_image():
    made = census([[1, None], [], [3, 2]], [["b", None], [], ["a", "b"]])
    assert made.unit.tolist() == [0, 0, 2, 2]
    assert made.position.tolist() == [0, 1, 0, 1]
    assert made.usable.tolist() == [True, False, True, True]
    assert [made.names[code] if code >= 0 else None for code in made.label] == ["b", None, "a", "b"]


def test_the_first_of_equal_images_stays():
    assert census([[5, 1, None], [1, 5, 0, None, 1]]).distinct().tolist() == [0, 1, 5]


def test_near_images_are_left_out_unless_what_they_are_near_to_is():
    # 1 is near to 0 and 2 to 1, but not to 0: 2 stays. 7 and 8 are near to each other.
    pairs = np.array([[1, 0], [1, 2], [8, 7], [7, 8]])
    assert without_near(np.array([0, 1, 2, 7, 8]), pairs).tolist() == [0, 2, 7]
    assert without_near(np.array([0, 1]), np.empty((0, 2), np.int64)).tolist() == [0, 1]


def test_cap_per_class_is_drawn_and_leaves_unlabelled_images_alone():
    labels = [[*"aaaaaaaab", None, None, None]]
    made = census([list(range(12))], labels)
    every = np.arange(12)
    kept = capped(made, every, 2, seed=0)
    assert kept.tolist() == sorted(kept.tolist())
    assert kept.tolist()[-4:] == [8, 9, 10, 11]
    assert len(kept) == 6
    assert len({tuple(capped(made, every, 2, seed)) for seed in range(20)}) > 5
    assert capped(made, every, 100, seed=0).tolist() == every.tolist()


def test_split_is_seeded_disjoint_and_in_the_order_of_the_source():
    made = census([list(range(30))])
    first, again, other = (choose(made, np.arange(30), data(members=20, holdout=4), seed) for seed in (0, 0, 1))
    rows = np.concatenate(list(first.rows.values()))
    assert len(np.unique(rows)) == 28
    assert all(np.all(np.diff(each) > 0) for each in first.rows.values())
    assert all(np.array_equal(first.rows[split], again.rows[split]) for split in first.rows)
    assert not np.array_equal(first.rows["member"], other.rows["member"])


def test_unseen_images_come_from_their_own_pool():
    made = census([[1, 2, 3], [4, 5, 1]], pools=(0, 1))
    chosen = choose(made, np.arange(6), data(members=3, holdout=1, holdout_path="y"), 0)
    assert chosen.rows["member"].tolist() == [0, 1, 2]
    assert set(chosen.rows["calibration"]) | set(chosen.rows["holdout"]) <= {3, 4, 5}
    with pytest.raises(UserError, match=r"data\.holdout: twice 2 unseen images are wanted, but y holds 3"):
        choose(made, np.arange(6), data(members=3, holdout=2, holdout_path="y"), 0)
    with pytest.raises(UserError, match=r"data\.members: 4 are wanted, but x holds 3"):
        choose(made, np.arange(6), data(members=4, holdout=1, holdout_path="y"), 0)


def test_classes_are_numbered_among_the_members_and_numbers_keep_their_order():
    made = census([[1, 2, 3], [4, 5]], [["10", "9", "2"], [None, None]], pools=(0, 1))
    chosen = choose(made, np.arange(5), data(members=3, holdout=1, holdout_path="y"), 0)
    assert chosen.class_names == ["2", "9", "10"]
    assert chosen.class_of[made.label].tolist() == [2, 1, 0, -1, -1]
    alike = census([[1, 2, 3], [4, 5]], [["x"] * 3, [None, None]], pools=(0, 1))
    assert choose(alike, np.arange(5), data(members=3, holdout=1, holdout_path="y"), 0).class_names == []


def alike(made: Census, pairs: list[tuple[int, int]] = ()) -> Alike:  # type: ignore[assignment]
    """Of a census with the numbers 0 … n − 1 as contents; `pairs` are near duplicates."""
    return Alike(made.contents(), np.array(pairs, np.int64).reshape(-1, 2), np.full(len(pairs), 0.05))


@pytest.mark.parametrize("apart", [False, True])
def test_copies_of_members_are_replaced_in_the_unseen_sets_and_counted(apart):
    # Image 20 + i of the second unit equals image i, and 40 + i is nearly image i.
    made = census([list(range(20)), list(range(20)), list(range(20, 40))], pools=(0, int(apart), int(apart)))
    options = data(members=12, holdout=5, **({"holdout_path": "y"} if apart else {}))
    same = alike(made, [(i, i + 20) for i in range(10)])
    for seed in range(5):
        chosen = choose(made, np.arange(60), options, seed, same)
        members = set(made.contents()[chosen.rows["member"]].tolist())
        unseen = made.contents()[np.concatenate([chosen.rows["calibration"], chosen.rows["holdout"]])]
        assert unseen.size == 10
        assert not members & set(unseen.tolist())
        assert not any(content - 20 in members for content in unseen if 20 <= content < 30)
        assert not any(content + 20 in members for content in unseen if content < 10)
        assert chosen.left_out["exact"] > 0
        assert chosen.left_out["near"] > 0
        plain = choose(made, np.arange(60), options, seed)
        assert np.array_equal(plain.rows["member"], chosen.rows["member"])
        nothing = choose(
            made, np.arange(60), options, seed, Alike(np.arange(60), np.empty((0, 2), np.int64), np.empty(0))
        )
        assert all(np.array_equal(plain.rows[split], nothing.rows[split]) for split in plain.rows)
        assert nothing.left_out == {"exact": 0, "near": 0}


def test_too_few_images_that_are_no_copies_are_refused_in_one_line():
    made = census([list(range(10)) * 2 + [50, 51]])
    with pytest.raises(UserError) as caught:
        choose(made, np.arange(22), data(members=18, holdout=2), 0, alike(made))
    assert "copies of members" in str(caught.value)
    assert "data.members" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_set_holds_what_another_audit_uses_or_a_copy_of_it():
    made = census([list(range(20)), list(range(20, 40))])
    same = alike(made, [(i, i + 20) for i in range(10)])
    first = choose(made, np.arange(40), data(members=6, holdout=3), 0, same)
    used = np.concatenate(list(first.rows.values()))
    other = choose(made, np.arange(40), data(members=6, holdout=1, skip=12), 0, same, same.copies(used))
    assert not same.copies(used)[np.concatenate(list(other.rows.values()))].any()
    with pytest.raises(UserError, match=r"only \d+ images are no copies"):
        choose(made, np.arange(40), data(members=26, holdout=1, skip=12), 0, same, same.copies(used))
