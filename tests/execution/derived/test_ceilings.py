"""How similar training images are to themselves after losses of detail: the same from the files, and what is said of it."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from side_ray.execution.derived import ceilings
from side_ray.execution.derived.ceilings import measure_ceilings, some_members
from side_ray.images import LOSSES
from side_ray.report import findings
from side_ray.runs.artifacts import Artifacts
from side_ray.search import Index
from side_ray.similarity import SIMILARITIES
from side_ray.similarity.base import EncoderSimilarity, Presets
from side_ray.similarity.nl2 import Nl2
from side_ray.stages.score import ScoringJob
from side_ray.statistics import changes
from tests.bruteforce import nl2, split_of
from tests.local import audit_here

QUALITIES = {"jpeg_75": 75, "jpeg_40": 40}


class Fragile(EncoderSimilarity):
    """Another direction for every other image, however little they differ."""

    name = display_name = "fragile"
    stores_features = False
    presets: ClassVar[Presets] = {"own": {"copy": (0.9, None)}}
    default_preset = "own"

    @classmethod
    def from_config(cls, score: Any) -> "Fragile":
        return cls()

    @classmethod
    def dimension(cls, shape: tuple[int, int, int]) -> int:
        return 64

    def params(self) -> dict[str, Any]:
        return {}

    def embed(self, images: Any) -> np.ndarray:
        found = [np.random.default_rng(list(hashlib.sha256(image.tobytes()).digest())) for image in images]
        drawn = np.stack([each.standard_normal(64, np.float32) for each in found])
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def audited(undrawn: None, tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    SIMILARITIES.register("fragile", Fragile)
    score = {"similarity": "nl2", "also": ["fragile"], "shards": 1}
    run = tmp_path_factory.mktemp("ceilings") / "run"
    yield audit_here(run, score=score, extract__methods=["random"], extract__lambdas=[0])
    SIMILARITIES.unregister("fragile")


@pytest.fixture(scope="module")
def metrics(audited: Artifacts) -> dict[str, Any]:
    return audited.report.read_json("metrics.json")


def lost(image: np.ndarray, name: str) -> np.ndarray:
    """A gray image [H, W, 1] after one of `LOSSES`, by Pillow alone."""
    picture, file = Image.fromarray(image[..., 0]), io.BytesIO()
    if name == "half_size":
        half = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BICUBIC)
        return np.asarray(half.resize(picture.size, Image.Resampling.BICUBIC))[..., None]
    picture.save(file, "JPEG", quality=QUALITIES[name])
    return np.asarray(Image.open(file))[..., None]


@pytest.mark.long
def test_the_numbers_of_nl2_follow_from_the_files(audited, metrics):
    root = Path(audited.run.store.uri)
    latest = json.loads((root / "latest.json").read_text())
    images, groups = split_of(root / latest["prepare"], "member")
    stored = pq.read_table(root / latest["ceilings"]["nl2"] / "part-000000.parquet", partitioning=None)
    ids = stored.column("id").to_numpy()
    found = metrics["ceilings"]["nl2"]
    assert found["n"] == len(set(ids.tolist())) == len(ids) == min(256, len(images))
    names = np.unique(groups)
    for name in LOSSES:
        again = np.stack([lost(images[each].astype(np.uint8), name) for each in ids])
        values = nl2(again.astype(float), images, groups, False)
        own = values[np.arange(len(ids)), np.searchsorted(names, groups[ids])]
        np.testing.assert_allclose(stored.column(name).to_numpy(), own, rtol=1e-6)
        entry = found["changes"][name]
        assert entry["median"] == pytest.approx(np.median(own), rel=1e-6)
        assert entry["farthest_5_percent"] == pytest.approx(np.quantile(own, 0.95), rel=1e-6)
        assert entry["within_cut"] == (own <= np.float32(metrics["cut"])).mean()
        edges = metrics["similarity"]["bands"]["bands"]
        assert entry["within_bands"] == {band: (own <= np.float32(edges[band][1])).mean() for band in edges}
    assert found["changes"]["jpeg_75"]["within_cut"] > found["changes"]["half_size"]["within_cut"]


@pytest.mark.long
def test_they_are_no_samples_that_a_bar_counts(audited):
    job = ScoringJob(audited.ceilings, 1, audited.ceilings, ("member",), seed=0)
    assert audited.ceilings.size(0) > 0
    assert job.rows(range(1)) == 0
    assert replace(job, seed=None).rows(range(1)) == audited.ceilings.size(0)


@pytest.mark.long
def test_a_similarity_that_jpeg_destroys_is_reported(audited, metrics):
    entry = metrics["ceilings"]["fragile"]["changes"]["jpeg_75"]
    assert entry["within_cut"] == entry["within_bands"]["copy"] == 0
    titles = [note.title for note in findings.notes(metrics)]
    assert "fragile misses copies that have lost detail" in titles
    page = audited.run.store.read("report.html").decode()
    assert "Would a copy that has lost detail be found?" in page
    assert "fragile misses copies that have lost detail" in page
    assert "saved as JPEG of quality 75, 0%" in page


@pytest.mark.parametrize(("side", "missed"), [(31, ["jpeg_40"]), (32, ["jpeg_40", "half_size"])])
def test_small_images_may_lose_themselves_when_they_are_halved(side, missed):
    shares = {"jpeg_75": 0.5, "jpeg_40": 0.4, "half_size": 0.0}
    found = {name: {"within_cut": share, "within_bands": {"low": 1.0}} for name, share in shares.items()}
    assert list(changes.missed_losses({"n": 10, "side": side, "changes": found})) == missed


def test_a_report_of_an_earlier_version_has_no_such_notes(metrics_of_an_audit):
    assert "ceilings" not in metrics_of_an_audit
    assert not any("lost detail" in note.title for note in findings.notes(metrics_of_an_audit))


@pytest.fixture
def metrics_of_an_audit() -> dict[str, Any]:
    similarity = {"name": "nl2", "closer": "lower", "bands": {"bands": {}, "cumulative": {"low": [None, 1.0]}}}
    band = {"ams": 0.0, "ams_count": 0, "ams_ci": [0, 0.1], "holdout_ams": None, "few": True}
    condition = {
        "method": "random",
        "lambda": 0.0,
        "n": 10,
        "cumulative": {"low": band},
        "bands": {},
        "calibrated": None,
    }
    return {"similarity": similarity, "cut": None, "train_size": 5, "conditions": [condition]}


@pytest.mark.parametrize("flips", [False, True])
def test_an_image_that_is_not_among_the_nearest_is_compared_too(flips):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 6, 6, 1)).astype(np.uint8)
    similarity, own = Nl2(n=3), np.arange(200)
    index = Index(similarity.embed(images), own, "l2", engine="torch", threads=1)

    def features(each: np.ndarray) -> np.ndarray:
        found = similarity.embed(each)
        return np.stack([found, similarity.embed(each[:, :, ::-1])]) if flips else found

    found = measure_ceilings(
        similarity,
        images,
        own,
        features,
        lambda far: similarity.embed(images[far]),
        lambda queries: index.search(queries, 3)[0],
    )
    for name in LOSSES:
        again = np.stack([lost(image, name) for image in images]).astype(np.float64).reshape(200, 1, 6, 6)
        train = images.astype(np.float64).reshape(1, 200, 6, 6)
        apart = np.sqrt(((again - train) ** 2).sum((2, 3)))
        if flips:
            apart = np.minimum(apart, np.sqrt(((again[..., ::-1] - train) ** 2).sum((2, 3))))
        expected = apart.diagonal() / (0.5 * np.sort(apart, 1)[:, :3].mean(1))
        np.testing.assert_allclose(found[name], expected, rtol=1e-6)
    nearest = index.search(features(LOSSES["half_size"](images)), 3)[0].ids
    assert (nearest != own[:, None]).all(1).any()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_losses_keep_the_form_of_images(channels):
    images = np.random.default_rng(0).integers(0, 256, (2, 9, 7, channels)).astype(np.uint8)
    deep = images.astype(np.float32) + 0.25
    for name, change in LOSSES.items():
        for given in (images, deep.clip(0, 255)):
            again = change(given)
            assert again.shape == given.shape, name
            assert again.dtype == given.dtype, name
            assert 0 <= again.min() <= again.max() <= 255
            assert (again != given).any()
    if channels in (2, 4):
        assert (LOSSES["jpeg_75"](images)[..., -1] == images[..., -1]).all()


def test_every_loss_has_words():
    assert list(changes.LOSSES) == list(LOSSES)


@pytest.mark.long
def test_few_files_are_read_of_many(audited, monkeypatch):
    read: list[str] = []
    real = ceilings.read_table

    def counted(store: Any, key: str, *rest: Any) -> Any:
        read.append(key)
        return real(store, key, *rest)

    monkeypatch.setattr(ceilings, "read_table", counted)
    monkeypatch.setattr(ceilings, "part_keys", lambda prepared: [f"{prepared.key}/part-000000.parquet"] * 100)
    monkeypatch.setattr(ceilings, "CEILING_MEMBERS", 40)
    ids, images = some_members(audited.prepare, 3)
    assert len(read) == ceilings.FILES
    assert len(ids) == len(images) == 40
    again, _ = some_members(audited.prepare, 3)
    other, _ = some_members(audited.prepare, 4)
    assert again.tolist() == ids.tolist() != other.tolist()
