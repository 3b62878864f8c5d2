"""CelebA and CelebA-HQ: folders with lists of who or what is on each image."""

import pickle
import shutil

import numpy as np
import pytest

from side_ray.errors import UserError
from side_ray.sources.reading.pixels import Transform
from tests.formats import everything, pictures, pools, write_celeba, write_celeba_hq, write_folder, zipped


@pytest.mark.parametrize("packed", [False, True])
def test_celeba_by_person_and_by_attributes(packed, tmp_path):
    images = write_celeba(tmp_path)
    if packed:
        zipped(tmp_path / "img_align_celeba", tmp_path / "img_align_celeba.zip")
        shutil.rmtree(tmp_path / "img_align_celeba")
    records = everything(pools("celeba", tmp_path)[0])
    assert [record.label for record in records] == [str(2880 - n // 3) for n in range(12)]
    cropped = Transform(crop=140, size=64)(records[3].content)
    expected = Transform(size=64)(images[3][39:179, 19:159])
    assert np.abs(cropped.astype(int) - expected).mean() < 3
    by_attribute = everything(pools("celeba", tmp_path, attributes=["Smiling", "Male"])[0])
    assert [record.label for record in by_attribute[3:6]] == [
        "Smiling=0,Male=1",
        "Smiling=1,Male=0",
        "Smiling=1,Male=1",
    ]


def test_celeba_finds_its_list_beside_the_images(tmp_path):
    write_celeba(tmp_path)
    assert pools("celeba", tmp_path / "img_align_celeba")[0].labelled


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda text: "", {}, "names no image"),
        (lambda text: text + "000001.jpg 3\n", {}, r"names 000001.jpg twice \(line 14\)"),
        (
            lambda text: text.replace("000002.jpg 2880", "000002.jpg"),
            {},
            "line 2 of .* is not a file name and 1 number",
        ),
        (
            lambda text: text.replace("000002.jpg", "2.jpg"),
            {},
            "1 images are not in .*, first img_align_celeba/000002.jpg",
        ),
        (None, {}, "identity_CelebA.txt is not at .*; give its path, or set data.labels=false"),
        (lambda text: text, {"attributes": ["Bald"]}, r"data\.attributes: Bald is not among the 2"),
        (lambda text: text, {"min_per_class": 4}, r"with data\.min_per_class 4; check both"),
    ],
)
def test_celeba_mistakes_are_one_line(change, options, message, tmp_path):
    write_celeba(tmp_path)
    path = tmp_path / "identity_CelebA.txt"
    path.write_text(change(path.read_text())) if change else path.unlink()
    with pytest.raises(UserError, match=message) as caught:
        everything(pools("celeba", tmp_path, **options)[0])
    assert "\n" not in str(caught.value)


def test_celeba_without_labels_needs_no_list(tmp_path):
    write_celeba(tmp_path)
    (tmp_path / "identity_CelebA.txt").unlink()
    assert len(everything(pools("celeba", tmp_path, labels=False)[0])) == 12


def test_celeba_hq_list_chooses_members_and_leaves_the_unseen(tmp_path):
    write_celeba_hq(tmp_path)
    path = tmp_path / "CelebA-HQ-img"
    members, rest = pools("celeba_hq", path, min_per_class=4, holdout_path=str(path))
    assert {record.name: record.label for record in everything(members)} == {
        f"{n}.jpg": "97"[(n + 1) % 2] for n in range(8)
    }
    assert [record.name for record in everything(rest)] == ["8.jpg", "9.jpg"]
    assert not rest.labelled
    assert members.identity() != rest.identity()
    assert pools("celeba_hq", path)[0].count() == 9
    workers = pickle.loads(pickle.dumps(members))
    assert [r for unit in members.units() for r in workers.read(unit)] == everything(members)


def test_celeba_hq_as_folders_of_persons(tmp_path):
    write_folder(tmp_path / "train", pictures(4))
    write_folder(tmp_path / "test", pictures(2))
    assert {record.label for record in everything(pools("celeba_hq", tmp_path)[0])} == {"class-0", "class-1"}
