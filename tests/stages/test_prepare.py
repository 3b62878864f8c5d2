"""Data sources on a real Ray: out of core, with any number of tasks, resumed after an interruption."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from side_ray.algorithm import run_until
from side_ray.config.file import load_config
from side_ray.errors import UserError
from side_ray.execution.audit import Audit
from side_ray.execution.progress import Reporter
from side_ray.images import decode_column
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.dataset import read_split
from side_ray.sources.folder import FolderSource
from side_ray.sources.reading.pixels import Transform
from side_ray.stages.prepare import prepare
from side_ray.storage import open_store
from tests.audits import tiny_config, tiny_values
from tests.formats import encoded, pictures, webdataset, write_cifar_archive, write_folder, write_parquet

pytestmark = pytest.mark.usefixtures("undrawn")


class Listener(Reporter):
    """Collects messages."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(f"warning: {text}")


def prepared(uri: object, **options: object) -> tuple[Artifacts, list[str]]:
    settings = {"data__members": 20, "data__holdout": 4, "dpm__kind": "optimal", **options}
    config = tiny_config(
        str(uri), **{name if "__" in name else f"data__{name}": value for name, value in settings.items()}
    )
    listener = Listener()
    audit = Audit.open(config, listener)
    prepare(audit)
    artifacts = audit.artifacts
    return artifacts, listener.lines


def parts(artifacts: Artifacts) -> dict[str, bytes]:
    root = Path(artifacts.run.store.uri) / artifacts.prepare.key
    return {path.name: path.read_bytes() for path in sorted(root.glob("part-*.parquet"))}


def test_every_image_arrives_once_whatever_the_number_of_tasks(tmp_path, ray_session, monkeypatch):
    images = pictures(60, (12, 12))
    write_folder(tmp_path / "images", images, classes=3)
    monkeypatch.setattr(FolderSource.__init__, "__defaults__", (True, 7, None))
    one, _ = prepared(
        tmp_path / "one", source="folder", path=str(tmp_path / "images"), members=40, holdout=6, cluster__actors=[1, 1]
    )
    three, _ = prepared(
        tmp_path / "three",
        source="folder",
        path=str(tmp_path / "images"),
        members=40,
        holdout=6,
        cluster__actors=[3, 3],
    )
    assert len(parts(one)) > 5
    assert parts(one) == parts(three)
    monkeypatch.setattr(FolderSource.__init__, "__defaults__", (True, 60, None))
    whole, _ = prepared(tmp_path / "whole", source="folder", path=str(tmp_path / "images"), members=40, holdout=6)
    assert len(parts(whole)) == 1
    seen = set()
    for split in ("member", "calibration", "holdout"):
        here, there = (read_split(each.run.store, each.prepare.key, split) for each in (one, whole))
        assert here.ids.tolist() == list(range(40 if split == "member" else 6))
        assert np.array_equal(here.images, there.images)
        assert np.array_equal(here.labels, there.labels)
        for image, label in zip(here.images, here.labels, strict=True):
            (number,) = np.flatnonzero((images == image).all((1, 2, 3)))
            assert label == number % 3
            seen.add(int(number))
        window = read_split(one.run.store, one.prepare.key, split, 2, 5)
        assert np.array_equal(window.images, here.images[2:5])
    assert len(seen) == 52
    assert one.prepare.info()["class_names"] == ["class-0", "class-1", "class-2"]


def test_the_parts_open_as_huggingface_images_and_name_their_files(tmp_path, ray_session):
    import datasets

    write_folder(tmp_path / "images", pictures(28))
    artifacts, _ = prepared(
        tmp_path / "run", source="folder", path=str(tmp_path / "images"), image_size=16, grayscale=True
    )
    files = str(Path(artifacts.run.store.uri) / artifacts.prepare.key / "part-*.parquet")
    features = datasets.Features(
        id=datasets.Value("int64"),
        split=datasets.Value("string"),
        image=datasets.Image(),
        label=datasets.Value("int64"),
        group=datasets.Value("int64"),
        caption=datasets.Value("string"),
    )
    rows = datasets.Dataset.from_parquet(files, features=features, cache_dir=str(tmp_path / ".hf"))
    assert (rows[0]["image"].size, rows[0]["image"].mode) == ((16, 16), "L")
    table = pq.read_table(sorted(Path(artifacts.run.store.uri, artifacts.prepare.key).glob("part-*"))[0])
    row = table.slice(3, 1)
    original = tmp_path / "images" / row.column("image")[0]["path"].as_py()
    expected = Transform(size=16, grayscale=True)(original.read_bytes())
    assert np.array_equal(decode_column(row.column("image"))[0], expected)


def test_broken_and_odd_sized_images_are_named_counted_and_left_out_on_request(tmp_path, ray_session):
    write_folder(tmp_path / "images", pictures(30))
    where = {"source": "folder", "path": str(tmp_path / "images")}
    first, second = tmp_path / "images/class-0/00004.png", tmp_path / "images/class-1/00001.png"
    first.write_bytes(first.read_bytes()[:-100])
    Image.new("RGBA", (32, 32), (1, 2, 3, 4)).save(second)
    with pytest.raises(UserError) as caught:
        prepared(tmp_path / "run", **where)
    text = str(caught.value)
    assert text.startswith(
        "data.path: 2 of 30 images cannot be used; repair or remove them, or skip them with data.skip_c"
    )
    assert "(class-0/00004.png: damaged" in text
    assert "class-1/00001.png: has transparent pixels" in text
    assert "data.skip_corrupt=true" in text
    assert "\n" not in text
    artifacts, lines = prepared(tmp_path / "run", **where, skip_corrupt=True)
    assert not any("prepare: read" in line for line in lines)
    info = artifacts.prepare.info()
    assert (info["images"], info["broken"], info["candidates"]) == (30, 2, 28)
    listed = artifacts.prepare.read_json("broken.json")
    assert [each["name"] for each in listed] == ["class-0/00004.png", "class-1/00001.png"]
    second.write_bytes(encoded(pictures(1, (20, 32))[0]))
    first.unlink()
    with pytest.raises(
        UserError, match=r"data\.image_size: .* have 2 sizes, among them 32×32 \(.*\), 32×20 \(class-1/00001.png\)"
    ):
        prepared(tmp_path / "run", **where)
    assert prepared(tmp_path / "run", **where, image_size=20)[0].prepare.info()["shape"] == [20, 20, 3]


def test_duplicates(tmp_path, ray_session):
    images = pictures(100, (8, 8))
    noisy = np.clip(images[:2].astype(int) + np.random.default_rng(0).integers(-3, 4, (2, 8, 8, 3)), 0, 255).astype(
        np.uint8
    )
    write_parquet(tmp_path / "a.parquet", np.concatenate([images, images[:12], noisy]), None, rows=16)
    where = {"source": "parquet", "path": str(tmp_path / "a.parquet")}
    counts = {}
    for dedup in ("none", "exact", "near"):
        artifacts, _ = prepared(tmp_path / "run", **where, dedup=dedup)
        counts[dedup] = artifacts.prepare.info()["candidates"]
    assert counts == {"none": 114, "exact": 102, "near": 100}


def columns(artifacts: Artifacts, split: str) -> dict[str, list[object]]:
    """Columns of one split, by id, and the pixels."""
    root = Path(artifacts.run.store.uri) / artifacts.prepare.key
    table = pq.read_table(sorted(root.glob("part-*")), filters=[("split", "==", split)]).sort_by("id")
    return table.to_pydict() | {"pixels": [each.tobytes() for each in decode_column(table.column("image"))]}


@pytest.mark.parametrize("apart", [False, True])
def test_duplicates_have_a_group_and_copies_of_members_stay_out_of_the_unseen_sets(apart, tmp_path, ray_session):
    images, rng = pictures(200, (8, 8)), np.random.default_rng(0)
    noisy = np.clip(images[:20] + rng.integers(-6, 7, (20, 8, 8, 3)), 0, 255).astype(np.uint8)
    many = np.repeat(images[:1], 20, axis=0)
    every = np.concatenate([images, images[:30], noisy, many])
    write_parquet(tmp_path / "a.parquet", every, None, rows=16)
    where = {"source": "parquet", "path": str(tmp_path / "a.parquet"), "members": 200, "holdout": 15}
    if apart:
        write_parquet(tmp_path / "b.parquet", np.concatenate([every[:60], pictures(40, (8, 8), seed=7)]), None)
        where["holdout_path"] = str(tmp_path / "b.parquet")
    artifacts, lines = prepared(tmp_path / "run", **where)
    members, info = columns(artifacts, "member"), artifacts.prepare.info()
    assert members["id"] == list(range(200))
    # Equal pixels and noise: the group is the first of each.
    sources = {image.tobytes(): number for number, image in enumerate(images)}
    sources |= {image.tobytes(): number for number, image in enumerate(noisy)}
    shown = [sources[pixels] for pixels in members["pixels"]]
    assert members["group"] == [shown.index(number) for number in shown]
    assert info["distinct"]["member"] == len(set(shown))
    exact = 200 - len(set(members["pixels"]))
    assert info["duplicates"]["member"] == {
        "exact": exact,
        "near": 200 - len(set(shown)) - exact,
        "largest": max(map(shown.count, shown)),
    }
    assert any(f"200 images count as {len(set(shown))}" in line for line in lines)
    for split in ("calibration", "holdout"):
        unseen = columns(artifacts, split)
        assert unseen["id"] == list(range(15))
        assert not {sources.get(pixels) for pixels in unseen["pixels"]} & set(shown)
    assert info["left_out"]["exact"] > 0
    assert any(f"{info['left_out']['exact']} exact and" in line and "kept out of the unseen" in line for line in lines)
    table = pq.read_table(Path(artifacts.run.store.uri) / artifacts.prepare.key / "duplicates.parquet")
    listed = {row["id"]: row for row in table.filter(pc.equal(table.column("split"), "member")).to_pylist()}
    assert {number: members["group"][number] for number in listed} == {n: row["group"] for n, row in listed.items()}
    assert all(members["pixels"][row["copy_of"]] == members["pixels"][number] for number, row in listed.items())
    assert set(listed) == {number for number in range(200) if members["group"].count(members["group"][number]) > 1}
    assert not list((Path(artifacts.run.store.uri) / artifacts.prepare.key / "scan").glob("thumbnails-*"))


def test_too_many_copies_of_members_are_refused_in_one_line(tmp_path, ray_session):
    write_parquet(tmp_path / "a.parquet", np.repeat(pictures(12, (8, 8)), 4, axis=0), None)
    with pytest.raises(UserError, match=r"data\.holdout: twice 4 unseen images .* copies of members") as caught:
        prepared(tmp_path / "run", source="parquet", path=str(tmp_path / "a.parquet"), members=30, holdout=4)
    assert "\n" not in str(caught.value)


def test_images_of_an_earlier_version_are_taken_up_and_their_members_kept(tmp_path, ray_session):
    images = pictures(60, (8, 8))
    write_parquet(tmp_path / "a.parquet", np.concatenate([images, images[:20]]), None, rows=16)
    where = {"source": "parquet", "path": str(tmp_path / "a.parquet"), "members": 40, "holdout": 8}
    artifacts, _ = prepared(tmp_path / "run", **where)
    wanted, root = parts(artifacts), Path(artifacts.run.store.uri) / artifacts.prepare.key
    for path in [*root.glob("part-*"), root / "scan" / "plan.parquet"]:
        pq.write_table(pq.read_table(path).drop_columns("group"), path)
    (root / "part-000099.parquet").write_bytes((root / "part-000000.parquet").read_bytes())
    earlier = {key: value for key, value in artifacts.prepare.info().items() if key not in ("distinct", "duplicates")}
    (root / "_done.json").write_text(json.dumps(earlier))
    (root / "_done_copy.json").unlink()
    (root / "duplicates.parquet").unlink()
    again, lines = prepared(tmp_path / "run", **where)
    assert any("did not look for duplicates: it is written again" in line for line in lines)
    assert again.prepare.key == artifacts.prepare.key
    assert parts(again) == wanted
    assert (root / "duplicates.parquet").exists()
    assert prepared(tmp_path / "run", **where)[1] == ["prepare: the images exist already"]


def test_the_digits_are_distinct_and_the_control_holds_none_of_the_audit(tmp_path):
    artifacts, lines = prepared(tmp_path / "run", source="digits", path=None, members=300, holdout=100)
    info = artifacts.prepare.info()
    assert info["distinct"] == {"member": 300, "calibration": 100, "holdout": 100}
    assert info["left_out"] == {"exact": 0, "near": 0}
    assert lines == ["prepare: 300 members, 100 + 100 unseen images"]
    config = tiny_config(tmp_path / "run", data__members=300, data__holdout=1, data__skip=500, dpm__kind="optimal")
    audit = Audit.open(config, Listener())
    prepare(audit, artifacts.prepare)
    used = {pixels for split in ("member", "calibration", "holdout") for pixels in columns(artifacts, split)["pixels"]}
    assert not used & set(columns(audit.artifacts, "member")["pixels"])


def test_cifar_members_and_unseen_images_keep_apart(tmp_path, ray_session):
    path = tmp_path / "cifar-10-python.tar.gz"
    images, labels = write_cifar_archive(path, "python")
    artifacts, _ = prepared(tmp_path / "run", source="cifar10", path=str(path), holdout_path=str(path), holdout=2)
    members = read_split(artifacts.run.store, artifacts.prepare.key, "member")
    assert np.array_equal(members.images, images[:20])
    assert members.labels.tolist() == labels[:20]
    unseen = [read_split(artifacts.run.store, artifacts.prepare.key, split) for split in ("calibration", "holdout")]
    found = [int(np.flatnonzero((images == image).all((1, 2, 3)))[0]) for each in unseen for image in each.images]
    assert sorted(found) == [20, 21, 22, 23]
    assert [label for each in unseen for label in each.labels] == [labels[place] for place in found]


def test_an_interrupted_preparation_resumes_and_a_damaged_archive_is_named(tmp_path, ray_session):
    images = pictures(30)
    (tmp_path / "data").mkdir()
    for number in range(3):
        (tmp_path / "data" / f"shard-{number}.tar").write_bytes(
            webdataset(images[number * 10 : number * 10 + 10], [1, 2] * 5)
        )
    where = {"source": "webdataset", "path": str(tmp_path / "data")}
    artifacts, lines = prepared(tmp_path / "run", **where, dpm__kind="import", dpm__path="/model")
    assert any("give unseen images as data.holdout_path" in line for line in lines)
    whole = parts(artifacts)
    root = Path(artifacts.run.store.uri) / artifacts.prepare.key
    for mark in ("_done.json", "_done_copy.json"):
        (root / mark).unlink()
    (root / "part-000001.parquet").unlink()
    (root / "scan" / "images-000002.parquet").unlink()
    stamp = (root / "part-000000.parquet").stat().st_mtime_ns
    again, _ = prepared(tmp_path / "run", **where)
    assert parts(again) == whole
    assert (root / "part-000000.parquet").stat().st_mtime_ns == stamp
    shard = tmp_path / "data" / "shard-1.tar"
    shard.write_bytes(shard.read_bytes()[:9000])
    with pytest.raises(
        UserError, match=r"1 of \d+ images cannot be used.* \(shard-1.tar: the archive is damaged after"
    ):
        prepared(tmp_path / "run", **where)


@pytest.mark.slow
def test_source_and_run_in_object_storage(s3, tmp_path):
    # In a new process, because Ray's workers get their credentials from the environment in which Ray was started.
    store, run = open_store(f"s3://{s3.bucket}/pictures"), f"s3://{s3.bucket}/prepared"
    images = pictures(28)
    for number, image in enumerate(images):
        store.write(f"class-{number % 2}/{number}.png", encoded(image))
    values = tiny_values(run, data__source="folder", data__members=20, data__holdout=4, data__path=store.uri)
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "side_ray.cli", "prepare", str(tmp_path / "audit.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    members = read_split(open_store(run), Artifacts.open(load_config(tmp_path / "audit.yaml")).prepare.key, "member")
    assert len(members) == 20
    assert all((images == image).all((1, 2, 3)).any() for image in members.images)
    with pytest.raises(UserError, match=f"data.path: there is nothing at s3://{s3.bucket}/elsewhere; check the path"):
        _ = Artifacts.open(load_config(tmp_path / "audit.yaml", [f"data.path=s3://{s3.bucket}/elsewhere"])).prepare


def test_faults_of_the_config_are_refused_before_anything_starts(tmp_path):
    write_folder(tmp_path / "images", pictures(20), classes=0)
    where = {"data__source": "folder", "data__path": str(tmp_path / "images"), "data__members": 10, "data__holdout": 5}
    for options, message in (
        ({"data__members": 11}, r"data\.members: 11 members and twice 5 unseen images are 21, but folder holds 20"),
        ({}, r"data\.source: folder has no labels, which method ti"),
        ({"data__image_size": 9}, "sides divisible by 2"),
    ):
        with pytest.raises(UserError, match=message):
            run_until("prepare", tiny_config(tmp_path / "run", **{**where, **options}), Reporter())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_audit_of_a_folder_goes_through(tmp_path, ray_session):
    images = pictures(180, (8, 8))
    write_folder(tmp_path / "images", images, classes=2)
    config = tiny_config(
        tmp_path / "run",
        data__source="folder",
        data__path=str(tmp_path / "images"),
        dpm__kind="optimal",
        extract__methods=["random"],
        extract__steps=8,
    )
    metrics = run_until("report", config, Reporter()).artifacts.report.read_json("metrics.json")
    assert metrics["conditions"][0]["cumulative"]["high"]["ams"] == 1.0
