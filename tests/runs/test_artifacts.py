"""Where artifacts lie: a run directory of an earlier version is found again, so that nothing is trained or sampled twice."""

import os
from pathlib import Path

import pytest

from side_ray.config.file import load_config
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.unet_dpm import new_unet, save_pipeline
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.plan import Condition
from side_ray.runs.status import moved, record
from side_ray.sources.reading.files import Files, earlier_identity
from tests.audits import CONFIGS, tiny_config

identity = Files.identity

KEYS = [
    (
        "digits_4000.yaml",
        [],
        "cc7d02026ded dfc3bbd275e8 cf13f458e3e7 9de4c3abe751 d8a04f5d1c62 25ae13fa3fe7 1c108d5f17da 3901341dbeb9",
    ),
    (
        "digits_tiny.yaml",
        [],
        "1e436e62a416 8e4808416bc6 20af360fc07b 793092f2d932 9f6f90f2b9c2 42ef5cfe6217 317208796beb 368437815821",
    ),
    (
        "digits_tiny.yaml",
        ["dpm.condition=random", "dpm.condition_classes=5"],
        "1e436e62a416 dd94e35d9bf8 f1904f36742e 3ab540914875 80b245adcfb6 462b8fd054cc 0a9e0e3dad40 415ad585090c",
    ),
    (
        "digits_tiny.yaml",
        ["dpm.kind=optimal", "dpm.steps=10"],
        "1e436e62a416 5c5fbb283e6a a1368ba31154 8e2158df5514 8b1008d221fb 864559b79e3a a00cc6b73a32 f721bb4f9032",
    ),
    (
        "digits_tiny.yaml",
        ["extract.guidance_interval=[0.1, 0.9]", "extract.sampler=ddim", "extract.eta=0.5", "extract.steps=10"],
        "1e436e62a416 8e4808416bc6 32a2aae22d3a 0e57194a2569 9f6f90f2b9c2 c951f8fbb909 a25d9a808cb7 a99a24c0c8b2",
    ),
    (
        "digits_tiny.yaml",
        ["surrogate.labels=classifier"],
        "1e436e62a416 8e4808416bc6 20af360fc07b 060627033d50 9f6f90f2b9c2 42ef5cfe6217 317208796beb ee4981b68600",
    ),
    (
        "digits_tiny.yaml",
        ["surrogate.labels=random"],
        "1e436e62a416 8e4808416bc6 20af360fc07b 48543ab0437e 9f6f90f2b9c2 42ef5cfe6217 317208796beb fca8ee2d8624",
    ),
    (
        "digits_tiny.yaml",
        ["dpm.ema_power=0.75", "dpm.flips=true", "dpm.unet.dropout=0.1"],
        "1e436e62a416 bcd64d468304 cc3714be25fa 8749b742285d 8b3257b8e5f1 45d885c10472 e3fc3d0043cf a7c38d8ea102",
    ),
]
"""Configs and their fingerprints: prepare, dpm, synthetic, surrogate, theory, and the samples of Random, OL-TI and SIDE.

Changing one of these makes every user train or sample again: bump the stage's number in `VERSIONS` where that is meant.
"""


@pytest.mark.parametrize(("name", "overrides", "keys"), KEYS)
def test_fingerprints_stay(tmp_path, name, overrides, keys):
    artifacts = Artifacts.open(load_config(CONFIGS / name, [f"run.uri={tmp_path}/run", *overrides]))
    found = [artifacts.prepare, artifacts.dpm, artifacts.synthetic, artifacts.surrogate, artifacts.theory]
    found += [artifacts.samples(Condition(method, 1.0)) for method in ("random", "ti", "td")]
    assert " ".join(each.fingerprint for each in found) == keys


def test_hits_lie_beside_the_scores_that_they_belong_to(tmp_path):
    artifacts = Artifacts.open(load_config(CONFIGS / "digits_tiny.yaml", [f"run.uri={tmp_path}/run"]))
    other = Artifacts.open(load_config(CONFIGS / "digits_tiny.yaml", [f"run.uri={tmp_path}/run", "score.bands=paper"]))
    condition = Condition("random", 0.0)
    assert artifacts.hits(condition).directory.startswith("hits/")
    assert artifacts.hits(condition).directory.endswith(condition.name)
    assert artifacts.hits(condition).directory != other.hits(condition).directory


def test_images_that_an_earlier_version_prepared_are_taken_up_until_their_files_change(tmp_path, monkeypatch):
    monkeypatch.setenv("SIDE_RAY_CACHE", str(tmp_path / "cache"))
    images = tmp_path / "images"
    images.mkdir()
    for number in range(70):
        (images / f"{number:03d}.png").write_bytes(b"%03d" % number)
        os.utime(images / f"{number:03d}.png", (1e9, 1e9))
    data = {"source": "folder", "path": str(images), "members": 40, "holdout": 15}

    def artifacts() -> Artifacts:
        return Artifacts.open(tiny_config(tmp_path / "run", data=data))

    def prepare() -> str:
        return artifacts().prepare.key

    new = prepare()
    with monkeypatch.context() as patch:
        patch.setattr(Files, "identity", lambda self: earlier_identity(identity(self)))
        earlier = prepare()
    assert earlier != new
    artifacts().run.store.write(f"{earlier}/_done.json", b"{}")
    assert prepare() == earlier
    assert artifacts().prepare.adopt() != ""
    assert prepare() == earlier
    (images / "001.png").write_bytes(b"xxx")  # not among the 64 files that earlier versions read
    os.utime(images / "001.png", (1e9, 1e9))
    assert prepare() not in (earlier, new)


def test_images_that_are_prepared_again_are_told_with_what_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("SIDE_RAY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    for number in range(70):
        (tmp_path / "images" / f"{number:03d}.png").write_bytes(b"%03d" % number)
    data = {"source": "folder", "path": str(tmp_path / "images"), "members": 40, "holdout": 15}

    def told(**changes) -> str:
        return moved(Artifacts.open(tiny_config(tmp_path / "run", data=data | changes)))

    first = Artifacts.open(tiny_config(tmp_path / "run", data=data))
    assert told() == ""
    record(first)
    first.run.point_latest(prepare=first.prepare.key)
    first.prepare.finish()
    assert told() == ""
    assert told(members=30, image_size=8).startswith(
        f"{first.prepare.key} is not used again: data.image_size, data.members changed. The images are prepared anew"
    )
    (tmp_path / "images" / "001.png").write_bytes(b"xxx")
    assert "files of data.path were added, removed or changed" in told()
    earlier = Artifacts.open(tiny_config(tmp_path / "run", data=data)).earlier_prepare
    earlier.finish()
    os.utime(tmp_path / "images" / "001.png", (4e9, 4e9))
    first.run.point_latest(prepare=earlier.key)
    assert "were modified after they were prepared" in told()


def test_a_model_that_is_made_again_is_told_with_what_moved(tmp_path):
    def now(**changes) -> Artifacts:
        return Artifacts.open(tiny_config(tmp_path / "run", **changes))

    def finish(artifacts: Artifacts) -> None:
        record(artifacts)
        for artifact in (artifacts.prepare, artifacts.dpm):
            artifact.finish()
        artifacts.run.point_latest(prepare=artifacts.prepare.key, dpm=artifacts.dpm.key)

    first = now()
    assert moved(first) == ""
    finish(first)
    assert moved(first) == moved(now(dpm__checkpoint_every=7)) == ""
    told = moved(now(dpm__steps=7, dpm__lr=0.1, dpm__checkpoint_every=7))
    assert told.startswith(f"{first.dpm.key} is not used again: dpm.lr, dpm.steps changed. The model is made anew, and")
    assert "data.members changed" in moved(now(data__members=50, dpm__steps=7))
    model = tmp_path / "model"
    save_pipeline(new_unet({"norm_num_groups": 8}, (1, 8, 8)), new_schedule("linear", 1000).config, model)
    imported = now(dpm={"path": str(model)})
    assert "dpm.kind" in moved(imported)
    finish(imported)
    assert moved(now(dpm={"path": str(model), "check": False})) == ""
    (model / "unet" / "config.json").write_text(f"{(model / 'unet' / 'config.json').read_text()} ")
    assert "files of dpm.path changed. The model is imported anew" in moved(now(dpm={"path": str(model)}))


def test_earlier_images_are_not_taken_up_if_a_file_is_newer(tmp_path, monkeypatch):
    monkeypatch.setenv("SIDE_RAY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    for number in range(70):
        (tmp_path / "images" / f"{number:03d}.png").write_bytes(b"%03d" % number)
    data = {"source": "folder", "path": str(tmp_path / "images"), "members": 40, "holdout": 15}
    artifacts = Artifacts.open(tiny_config(tmp_path / "run", data=data))
    content = [earlier_identity(pool.identity()) for pool in artifacts.pools]
    key = artifacts.run.artifact("prepare", 1, artifacts.config.data.settings(), 3, *content).key
    artifacts.run.store.write(f"{key}/_done.json", b"{}")
    os.utime(tmp_path / "run" / key / "_done.json", (1e9, 1e9))
    assert artifacts.prepare.key != key


def test_scores_depend_on_the_content_of_the_weights_and_not_on_their_path(tmp_path):
    def scores(path: Path) -> str:
        score = {"similarity": "sscd", "checkpoint": str(path)}
        return Artifacts.open(tiny_config(tmp_path / "run", score=score)).scores(Condition("random", 0.0)).fingerprint

    one, other = tmp_path / "a.onnx", tmp_path / "b.onnx"
    one.write_bytes(b"weights")
    other.write_bytes(b"weights")
    before = scores(one)
    assert scores(other) == before
    one.write_bytes(b"weightz")
    assert scores(one) != before
