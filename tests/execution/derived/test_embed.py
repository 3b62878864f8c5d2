"""Features that take long to compute are computed once for each image and stored, in the run and where audits share them."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest

from side_ray.config import Config
from side_ray.config.base import Count, Section, omitted_by_default
from side_ray.errors import Damaged, UserError
from side_ray.images import LOSSES
from side_ray.results.purge import purge
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.dataset import read_split
from side_ray.runs.plan import conditions
from side_ray.runs.preflight import check_places
from side_ray.similarity import SIMILARITIES
from side_ray.similarity.base import Similarity
from side_ray.stages.score import score
from side_ray.storage import open_store
from tests.audits import tiny_config
from tests.local import audit_here, stages_here

pytestmark = pytest.mark.long

FIXED: dict[str, Any] = {
    "dpm__kind": "optimal",
    "surrogate__labels": "random",
    "surrogate__synthetic": 100,
    "extract__samples": 100,
    "extract__methods": ["random", "td"],
    "score": {"similarity": "angle", "bands": {"high": [0.9, None]}, "shards": 1},
}
SAMPLES = 100 + 2 * 100
"""Of the synthetic set and of two conditions."""


class AngleOptions(Section):
    power: Count = omitted_by_default(1)


class Angle(Similarity):
    """Cosine of pixel values."""

    Options = AngleOptions
    name = "angle"
    display_name = "cosine"
    larger_is_closer = True
    metric = "ip"
    stores_features = True
    embedded: ClassVar[list[int]] = []
    """How many images each call embeds, but for those of one image, which tell the dimension."""

    def __init__(self, power):
        self.power = power

    @classmethod
    def from_config(cls, score):
        return cls(score.options(AngleOptions).power)

    @classmethod
    def dimension(cls, shape):
        return int(np.prod(shape))

    def params(self):
        return {"power": self.power}

    def embed(self, images):
        if len(images) > 1:
            self.embedded.append(len(images))
        pixels = np.stack(images).reshape(len(images), -1).astype(np.float64) ** self.power + 1
        return (pixels / np.linalg.norm(pixels, axis=1, keepdims=True)).astype(np.float32)

    def values(self, neighbors):
        return neighbors.values.astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    SIMILARITIES.register("angle", Angle)
    yield
    SIMILARITIES.unregister("angle")


@pytest.fixture(scope="module")
def audited(registered: None, undrawn: None, tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    Angle.embedded.clear()
    found = audit_here(tmp_path_factory.mktemp("embed") / "run", **FIXED)
    # With the synthetic set for the strata first, of which the scorers then read the features, and members after each loss.
    assert sum(Angle.embedded) == sum(found.sizes.values()) + SAMPLES + len(LOSSES) * found.sizes["member"]
    return found


def again(audited: Artifacts, run: Path, *without: str, **changes: Any) -> Config:
    """A config of a copy of the audit, without the files of some stages."""
    shutil.copytree(audited.run.store.uri, run)
    for name in without:
        shutil.rmtree(run / name)
    Angle.embedded.clear()
    return tiny_config(run, **FIXED | {"score": FIXED["score"] | changes})


def scores(artifacts: Artifacts) -> list[Any]:
    return [artifacts.scores(each).read_first(artifacts.sample_shards) for each in conditions(artifacts.config)]


UNSCORED = ("scores", "hits", "strata")


def test_every_image_is_stored_with_its_features(audited):
    features, similarity = audited.features, Angle(1)
    assert features.complete
    for split, size in audited.sizes.items():
        ids = np.arange(size)[1::2]
        own = similarity.embed(read_split(audited.run.store, audited.prepare.key, split).images)
        assert (features.read(split, ids) == own[ids]).all()


def test_scoring_again_embeds_nothing_and_finds_the_same(audited, tmp_path):
    found = stages_here(again(audited, tmp_path / "run", *UNSCORED), [score])
    assert Angle.embedded == []
    assert scores(found) == scores(audited)


def test_an_audit_of_an_earlier_version_that_is_scored_embeds_nothing(audited, tmp_path):
    stages_here(again(audited, tmp_path / "run", "features"), [score])
    assert Angle.embedded == []
    assert not (tmp_path / "run" / "features").exists()


def test_another_audit_of_the_same_images_takes_their_features_from_the_cache(audited, tmp_path):
    cache = {"features_cache": str(tmp_path / "cache")}
    stages_here(again(audited, tmp_path / "first", *UNSCORED, "features", **cache), [score])
    assert sum(Angle.embedded) == sum(audited.sizes.values()) + SAMPLES
    second = again(audited, tmp_path / "second", *UNSCORED, "features", **cache)
    found = stages_here(second, [score])
    assert sum(Angle.embedded) == SAMPLES
    assert scores(found) == scores(audited)
    part = next((tmp_path / "cache").rglob("part-000000.parquet"))
    good = part.read_bytes()
    part.write_bytes(good[:-60] + bytes(50) + good[-10:])
    found = stages_here(again(audited, tmp_path / "third", *UNSCORED, "features", **cache), [score])
    assert (
        sum(Angle.embedded) == pq.read_metadata(tmp_path / "second" / audited.features.images.key(0)).num_rows + SAMPLES
    )
    assert part.read_bytes() == good
    assert scores(found) == scores(audited)


def test_audits_share_features_in_a_bucket(audited, tmp_path, s3):
    cache = {"features_cache": f"s3://{s3.bucket}/features"}
    stages_here(again(audited, tmp_path / "first", *UNSCORED, "features", **cache), [score])
    assert sum(Angle.embedded) == sum(audited.sizes.values()) + SAMPLES
    found = stages_here(again(audited, tmp_path / "second", *UNSCORED, "features", **cache), [score])
    assert sum(Angle.embedded) == SAMPLES
    assert scores(found) == scores(audited)
    shared = {entry.key for entry in open_store(cache["features_cache"]).list()}
    parts = range(found.shared_features.parts)
    assert {found.shared_features.images.key(part) for part in parts} <= shared
    assert not [key for key in shared if key.rsplit("/", 1)[-1].startswith((".", "tmp"))]


def test_damaged_features_of_images_are_named_and_those_of_samples_are_made_again(audited, tmp_path):
    config = again(audited, tmp_path / "run", *UNSCORED)
    images, of_samples = audited.features.images.key(1), audited.sample_features(audited.synthetic).key(0)
    for key in (images, of_samples):
        path = tmp_path / "run" / key
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(Damaged) as caught:
        stages_here(config, [score])
    assert caught.value.keys == [images]
    (tmp_path / "run" / images).unlink()
    found = stages_here(config, [score])
    assert scores(found) == scores(audited)


def test_other_settings_use_other_features(audited):
    other = audited.config.model_copy(update={"score": audited.config.score.model_copy(update={"power": 2})})
    changed = Artifacts.open(other)
    assert changed.features.images.directory != audited.features.images.directory
    assert changed.sample_features(changed.synthetic).directory != audited.sample_features(audited.synthetic).directory


def test_pixels_are_not_stored(tmp_path):
    assert Artifacts.open(tiny_config(tmp_path)).features is None


def test_features_are_purged_with_the_images(audited, tmp_path):
    again(audited, tmp_path / "run")
    purge(Artifacts.open(tiny_config(tmp_path / "run")).run.store)
    assert not list(tmp_path.glob("run/features/**/*.parquet"))


def test_the_cache_is_not_in_what_is_read_as_data(tmp_path):
    data = {"source": "folder", "path": str(tmp_path / "images"), "members": 5, "holdout": 5}
    config = tiny_config(tmp_path / "run", data=data, score={"features_cache": str(tmp_path / "images" / "cache")})
    with pytest.raises(UserError, match="read as data") as caught:
        check_places(config)
    assert caught.value.key == "score.features_cache"


def test_where_features_are_shared_moves_no_fingerprint(tmp_path):
    plain = Artifacts.open(tiny_config(tmp_path))
    shared = Artifacts.open(tiny_config(tmp_path, score__features_cache=str(tmp_path / "cache")))
    assert shared.report.key == plain.report.key
    assert shared.cut.directory == plain.cut.directory
