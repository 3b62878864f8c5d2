"""Neither duplicates in the training set nor flips hide a copy, from the config to the report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from side_ray.algorithm import run_until
from side_ray.execution.progress import Reporter
from side_ray.images import image_column
from side_ray.sources.published.digits import load_digits
from side_ray.studies.given import given_config
from tests.audits import PAGE_ONLY, tiny_config
from tests.bruteforce import check
from tests.local import without_ray

pytestmark = pytest.mark.long

SAMPLES = 60


def near(generator: np.random.Generator, images: np.ndarray, most: int) -> np.ndarray:
    noise = generator.integers(-most, most + 1, images.shape)
    return np.clip(images.astype(int) + noise, 0, 255).astype(np.uint8)


def scored(
    path: Path, train: np.ndarray, samples: np.ndarray, *overrides: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics and the scores of all samples, from a run that the brute force agrees with."""
    digits = load_digits().images[np.random.default_rng(7).permutation(1797)]
    names = []
    path.mkdir()
    for name, images in (("s", samples), ("t", train), ("u", digits[-200:])):
        names.append(str(path / f"{name}.parquet"))
        pq.write_table(pa.table({"image": image_column(images)}), names[-1], row_group_size=50)
    options = ["data.grayscale=true", "score.false_match_rate=0.05", "extract.shard_size=30", *PAGE_ONLY, *overrides]
    config = given_config(*names, run=str(path / "run"), overrides=options)
    with without_ray():
        artifacts = run_until("report", config, Reporter()).artifacts
    assert check(path / "run") == []
    metrics = artifacts.report.read_json("metrics.json")
    latest = json.loads((path / "run" / "latest.json").read_text())["scores"]["method=given/lambda=0.0"]
    tables = [pq.read_table(each, partitioning=None) for each in sorted((path / "run" / latest).glob("part-*.parquet"))]
    return metrics, pa.concat_tables(tables).to_pydict()


@pytest.fixture
def images() -> tuple[np.ndarray, np.ndarray]:
    """200 training digits, and samples: ten near copies of the first, then blends."""
    generator = np.random.default_rng(3)
    digits = load_digits().images[np.random.default_rng(7).permutation(1797)]
    pairs = generator.integers(300, 1500, size=(2, SAMPLES - 10))
    blends = ((digits[pairs[0]].astype(int) + digits[pairs[1]]) // 2).astype(np.uint8)
    return digits[:200], np.concatenate([near(generator, digits[[0] * 10], 4), blends])


def test_copies_of_an_image_that_is_there_sixty_times_are_found(tmp_path, images):
    train, samples = images
    once, alone = scored(tmp_path / "once", train, samples)
    many = np.insert(train, [100] * 60, train[0], axis=0)
    metrics, found = scored(tmp_path / "many", many, samples)
    # As if it were there once: the ten copies are matches, by the same values, and they are of one image.
    assert found["best"] == alone["best"]
    assert max(found["best"][:10]) < 0.1
    assert found["best_id"][:10] == [0] * 10
    assert metrics["cut"] == once["cut"]
    assert metrics["conditions"][0]["calibrated"]["ams_count"] >= 10
    assert metrics["conditions"][0]["calibrated"]["ums_count"] == once["conditions"][0]["calibrated"]["ums_count"]
    assert (metrics["train_size"], metrics["train_distinct"]) == (260, 200)
    assert metrics["duplicates"]["member"] == {"exact": 60, "near": 0, "largest": 61}
    page = next((tmp_path / "many" / "run").glob("report/*/index.html")).read_text()
    assert "61 times in the training set" in page
    assert "60 training images are exact copies of others" in page


def test_near_duplicates_count_once_by_the_closest_of_them(tmp_path, images):
    train, samples = images
    generator = np.random.default_rng(5)
    _, alone = scored(tmp_path / "once", train, samples)
    more = np.concatenate([train, near(generator, train[[0] * 10], 6), near(generator, train[[50] * 3], 6)])
    samples[20] = more[205]
    metrics, found = scored(tmp_path / "near", more, samples, "score.bands=paper")
    assert metrics["duplicates"]["member"] == {"exact": 0, "near": 13, "largest": 11}
    assert (found["best"][20], found["best_id"][20]) == (0, 0)
    # A sample may be a little closer to one of the group than to its first, but the unit does not shrink with its size.
    others = np.arange(SAMPLES) != 20
    np.testing.assert_allclose(np.array(found["best"])[others], np.array(alone["best"])[others], rtol=0.1)


@pytest.mark.slow
def test_the_engine_changes_nothing(tmp_path, images):
    train, samples = images
    more = np.concatenate([train, train[:30], near(np.random.default_rng(5), train[[0] * 10], 6)])
    results = [scored(tmp_path / name, more, samples, f"score.engine={name}")[1] for name in ("torch", "faiss")]
    assert results[0] == results[1]


def test_mirrored_copies_are_warned_of_and_found_if_asked_for(tmp_path, images, capsys):
    train, samples = images
    generator = np.random.default_rng(4)
    samples[:30] = near(generator, train[:30], 4)
    samples[10:30] = samples[10:30, :, ::-1]
    blind, _ = scored(tmp_path / "auto", train, samples)
    probe = blind["mirrored"]
    assert probe["samples"] == SAMPLES
    assert probe["matches"] >= 10
    assert 15 <= probe["missed"] <= 20  # some digits are nearly symmetric
    assert probe["many"]
    assert not blind["similarity"]["flips"]
    said, page = capsys.readouterr().err, next((tmp_path / "auto" / "run").glob("report/*/index.html")).read_text()
    assert "score.flips=true" in said
    assert "Mirrored copies are not counted" in page
    assert "copies that are shifted, rotated or cropped are not seen" in said
    assert "Shifted, rotated and cropped copies are not seen" in page

    metrics, found = scored(tmp_path / "true", train, samples, "score.flips=true", "score.bands=paper")
    assert metrics["similarity"]["flips"]
    assert metrics["mirrored"] is None
    assert found["best_id"][:30] == list(range(30))
    assert max(found["best"][:30]) < 0.2
    assert metrics["conditions"][0]["calibrated"]["ums_best_count"] >= 30

    samples[10:30] = samples[10:30, :, ::-1]
    plain, _ = scored(tmp_path / "plain", train, samples)
    assert not plain["mirrored"]["many"]


@pytest.mark.parametrize(
    ("changes", "compared", "probed"),
    [
        ({}, False, False),
        ({"dpm__flips": True}, True, False),
        ({"dpm__flips": True, "score__flips": False}, False, False),
        ({"score__flips": True}, True, False),
        ({"dpm__kind": "optimal", "dpm__flips": True}, False, False),
        ({"dpm": {"path": "/model"}}, False, True),
        ({"dpm": {"path": "/model"}, "score__flips": True}, True, False),
        ({"dpm": {"path": "/model"}, "score__flips": False}, False, False),
    ],
)
def test_flips_are_compared_where_the_training_had_them_and_probed_where_nobody_knows(changes, compared, probed):
    config = tiny_config("/tmp/unused", **changes)
    assert (config.compares_flips, config.probes_flips) == (compared, probed)
