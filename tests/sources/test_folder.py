"""Image folders and zip archives of them."""

import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from side_ray.config import DataSection
from side_ray.errors import UserError
from side_ray.sources.folder import FolderSource
from side_ray.sources.pools import describe
from side_ray.sources.reading.files import open_files
from side_ray.sources.reading.pixels import Transform
from tests.formats import encoded, everything, pictures, pools, write_folder, zipped


def test_folder_round_trip_with_and_without_classes(tmp_path):
    images = pictures(7)
    write_folder(tmp_path / "classes", images)
    write_folder(tmp_path / "flat", images, classes=0)
    (tmp_path / "flat" / ".hidden.png").write_bytes(b"x")
    (tmp_path / "flat" / "notes.txt").write_text("x")
    (source,) = pools("folder", tmp_path / "classes")
    records = everything(source)
    assert [record.name for record in records] == sorted(f"class-{n % 2}/{n:05d}.png" for n in range(7))
    for record in records:
        number = int(Path(record.name).stem)
        assert np.array_equal(Transform()(record.content), images[number])
        assert record.label == f"class-{number % 2}"
    (flat,) = pools("folder", tmp_path / "flat")
    assert [record.label for record in everything(flat)] == [None] * 7
    assert (source.labelled, flat.labelled, flat.count()) == (True, False, 7)
    assert everything(FolderSource(open_files(str(tmp_path / "flat"), "data.path"), unit_images=2)) == everything(flat)


def test_a_split_into_train_and_test_keeps_its_classes(tmp_path):
    write_folder(tmp_path / "train", pictures(4))
    write_folder(tmp_path / "test", pictures(2, seed=1))
    assert {record.label for record in everything(pools("folder", tmp_path)[0])} == {"class-0", "class-1"}


def test_zip_is_read_like_the_folder(tmp_path):
    write_folder(tmp_path / "images", pictures(5))
    (plain,), (packed,) = pools("folder", tmp_path), pools("folder", zipped(tmp_path / "images", tmp_path / "all.zip"))
    assert everything(pickle.loads(pickle.dumps(packed))) == everything(plain)
    whole = (tmp_path / "all.zip").read_bytes()
    (tmp_path / "all.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is not a whole zip archive"):
        everything(pools("folder", tmp_path / "all.zip")[0])
    damaged = bytearray(whole)
    damaged[200] ^= 255
    (tmp_path / "all.zip").write_bytes(damaged)
    assert ["damaged" in record.error for record in everything(pools("folder", tmp_path / "all.zip")[0])] == [True] + [
        False
    ] * 4


def test_a_zip_archive_that_holds_a_file_twice_is_refused(tmp_path):
    write_folder(tmp_path / "images", pictures(2))
    packed = zipped(tmp_path / "images", tmp_path / "all.zip")
    with zipfile.ZipFile(packed, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("images/class-0/00000.png", encoded(pictures(1, seed=3)[0]))
    with pytest.raises(UserError, match=r"all\.zip in .* holds images/class-0/00000\.png twice; pack each file once"):
        everything(pools("folder", packed)[0])


def test_folder_mistakes_are_one_line(tmp_path):
    write_folder(tmp_path / "mixed", pictures(2))
    write_folder(tmp_path / "mixed", pictures(2), classes=0)
    with pytest.raises(UserError, match=r"images in sub-folders and beside them \(00000.png\); sort all"):
        describe(DataSection(source="folder", path="x", members=1, holdout=1), pools("folder", tmp_path / "mixed"))
    assert len(everything(pools("folder", tmp_path / "mixed", labels=False)[0])) == 4
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there is no image in"):
        pools("folder", tmp_path / "empty")[0].count()
    with pytest.raises(UserError, match=r"data\.path: there is no file or directory"):
        pools("folder", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"data\.holdout_path: there is no file or directory"):
        pools("folder", tmp_path / "mixed", holdout_path=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"data\.path: s3:// is not of the form s3://bucket/prefix"):
        pools("folder", "s3://")
    with pytest.raises(UserError, match=r"data\.path: cannot read from ftp://x/y; give a local path"):
        pools("folder", "ftp://x/y")
    with pytest.raises(UserError, match=r"is a file; give a directory"):
        pools("folder", tmp_path / "mixed" / "00000.png")


def test_identity_follows_the_content_and_not_the_place(tmp_path):
    write_folder(tmp_path / "a", pictures(6))
    first = pools("folder", tmp_path / "a")[0].identity()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert pools("folder", tmp_path / "b")[0].identity() == first
    victim = tmp_path / "b" / "class-0" / "00000.png"
    victim.write_bytes(victim.read_bytes()[:-1] + b"!")
    assert pools("folder", tmp_path / "b")[0].identity() != first
    victim.rename(victim.with_name("zz.png"))
    shutil.copy(tmp_path / "a" / "class-0" / "00000.png", victim.with_name("zz.png"))
    assert pools("folder", tmp_path / "b")[0].identity() != first


def test_unseen_images_keep_their_labels_where_they_have_any(tmp_path):
    write_folder(tmp_path / "members", pictures(4))
    write_folder(tmp_path / "unseen", pictures(4, seed=1))
    labelled, plain = (
        pools("folder", tmp_path / "members", holdout_path=str(tmp_path / "unseen"), labels=labels)[1]
        for labels in (True, False)
    )
    assert {record.label for record in everything(labelled)} == {"class-0", "class-1"}
    assert {record.label for record in everything(plain)} == {None}
    # A manifest of labels does not identify unseen images either, so prepared ones of an earlier version are taken up.
    names = [record.name for record in everything(labelled)]
    rows = "\n".join(f"{name},{number}" for number, name in enumerate(names))
    (tmp_path / "unseen" / "metadata.csv").write_text(f"file_name,label\n{rows}\n")
    labelled, plain = (
        pools("folder", tmp_path / "members", holdout_path=str(tmp_path / "unseen"), labels=labels)[1]
        for labels in (True, False)
    )
    assert [record.label for record in everything(labelled)] == ["0", "1", "2", "3"]
    assert labelled.identity() == plain.identity()


def test_unseen_images_whose_labels_cannot_be_read_are_taken_without(tmp_path):
    write_folder(tmp_path / "members", pictures(4))
    write_folder(tmp_path / "unseen", pictures(2))
    write_folder(tmp_path / "unseen", pictures(2), classes=0)
    source = pools("folder", tmp_path / "members", holdout_path=str(tmp_path / "unseen"))[1]
    assert [record.label for record in everything(source)] == [None] * 4
