"""Neither duplicates in the training set nor flips hide a copy, from the config to the report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import ExifTags, Image

from side_ray.algorithm import run_until
from side_ray.execution.progress import Reporter
from side_ray.images import CHANGES, TURNS, image_column
from side_ray.sources.published.digits import load_digits
from side_ray.statistics.changes import remedy
from side_ray.studies.given import given_config
from tests.audits import PAGE_ONLY, tiny_config
from tests.bruteforce import check
from tests.formats import encoded, pictures, write_folder
from tests.local import without_ray

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("undrawn")]

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


def drawn() -> tuple[np.ndarray, np.ndarray]:
    """200 training digits, and samples: ten near copies of the first, then blends."""
    generator = np.random.default_rng(3)
    digits = load_digits().images[np.random.default_rng(7).permutation(1797)]
    pairs = generator.integers(300, 1500, size=(2, SAMPLES - 10))
    blends = ((digits[pairs[0]].astype(int) + digits[pairs[1]]) // 2).astype(np.uint8)
    return digits[:200], np.concatenate([near(generator, digits[[0] * 10], 4), blends])


@pytest.fixture
def images() -> tuple[np.ndarray, np.ndarray]:
    """`drawn`, for tests that change them."""
    return drawn()


@pytest.fixture(scope="module")
def alone(undrawn, tmp_path_factory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics and scores of `drawn`."""
    return scored(tmp_path_factory.mktemp("alone") / "run", *drawn())


def test_copies_of_an_image_that_is_there_sixty_times_are_found(tmp_path, images, alone):
    train, samples = images
    many = np.insert(train, [100] * 60, train[0], axis=0)
    metrics, found = scored(tmp_path / "many", many, samples)
    # As if it were there once: the ten copies are matches, by the same values, and they are of one image.
    assert found["best"] == alone[1]["best"]
    assert max(found["best"][:10]) < 0.1
    assert found["best_id"][:10] == [0] * 10
    assert metrics["cut"] == alone[0]["cut"]
    assert metrics["conditions"][0]["calibrated"]["ams_count"] >= 10
    assert metrics["conditions"][0]["calibrated"]["ums_count"] == alone[0]["conditions"][0]["calibrated"]["ums_count"]
    assert (metrics["train_size"], metrics["train_distinct"]) == (260, 200)
    assert metrics["duplicates"]["member"] == {"exact": 60, "near": 0, "largest": 61}
    page = next((tmp_path / "many" / "run").glob("report/*/index.html")).read_text()
    assert "61 times in the training set" in page
    assert "60 training images are exact copies of others" in page


def test_near_duplicates_count_once_by_the_closest_of_them(tmp_path, images, alone):
    train, samples = images
    generator = np.random.default_rng(5)
    more = np.concatenate([train, near(generator, train[[0] * 10], 6), near(generator, train[[50] * 3], 6)])
    samples[20] = more[205]
    metrics, found = scored(tmp_path / "near", more, samples, "score.bands=paper")
    assert metrics["duplicates"]["member"] == {"exact": 0, "near": 13, "largest": 11}
    assert (found["best"][20], found["best_id"][20]) == (0, 0)
    # A sample may be a little closer to one of the group than to its first, but the unit does not shrink with its size.
    others = np.arange(SAMPLES) != 20
    np.testing.assert_allclose(np.array(found["best"])[others], np.array(alone[1]["best"])[others], rtol=0.1)


@pytest.mark.slow
def test_the_engine_changes_nothing(tmp_path, images):
    train, samples = images
    more = np.concatenate([train, train[:30], near(np.random.default_rng(5), train[[0] * 10], 6)])
    results = [scored(tmp_path / name, more, samples, f"score.engine={name}")[1] for name in ("torch", "faiss")]
    assert results[0] == results[1]


def test_mirrored_copies_are_warned_of_and_found_if_asked_for(tmp_path, images, alone, capsys):
    train, samples = images
    generator = np.random.default_rng(4)
    samples[:30] = near(generator, train[:30], 4)
    samples[10:30] = samples[10:30, :, ::-1]
    capsys.readouterr()
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
    assert not alone[0]["mirrored"]["many"]


def test_copies_that_are_changed_otherwise_are_warned_of(tmp_path, images, capsys):
    tint = np.array([1.0, 0.8, 0.5])
    train, samples = ((each * tint).astype(np.uint8) for each in images)
    back = {TURNS[0]: TURNS[1], TURNS[1]: TURNS[0]}
    changes = [change for change in CHANGES if change != "mirrored"]
    for number, change in enumerate(changes, 1):
        few = slice(10 * number, 10 * number + 10)
        samples[few] = CHANGES[back.get(change, change)](train[few])
    metrics, _ = scored(tmp_path / "run", train, samples, "data.grayscale=false")
    said = " ".join(capsys.readouterr().err.split())
    page = next((tmp_path / "run" / "run").glob("report/*/index.html")).read_text()
    assert list(metrics["changed"]) == changes
    for change, probe in metrics["changed"].items():
        assert probe["many"]
        assert 7 <= probe["missed"] <= 14  # some digits look alike both ways
        assert f"only when they are {change}, and are not counted: {remedy(change)}" in said
        assert f"Copies that are {change} are not counted" in page


@pytest.mark.parametrize("ignored", [False, True])
def test_images_that_exif_data_turns_are_told_and_found_either_way(tmp_path, ignored, capsys):
    """A training that ignores EXIF data makes copies that lie on their side."""
    pixels = pictures(90, (12, 12))
    for name, chosen in (("t", pixels[:60]), ("u", pixels[60:])):
        (tmp_path / name).mkdir()
        for number, image in enumerate(chosen):
            exif = Image.Exif()
            exif[ExifTags.Base.Orientation] = 6 if number < 20 else 1
            (tmp_path / name / f"{number:02d}.png").write_bytes(encoded(image, "PNG", exif=exif))
    write_folder(tmp_path / "s", np.concatenate([pixels[:10], pictures(120, (12, 12))[90:]]), classes=0)
    options = ["score.false_match_rate=0.05", *(["data.exif_orientation=false"] if ignored else [])]
    paths = [str(tmp_path / name) for name in "stu"]
    with without_ray():
        artifacts = run_until(
            "report", given_config(*paths, run=str(tmp_path / "run"), overrides=options), Reporter()
        ).artifacts
    metrics = artifacts.report.read_json("metrics.json")
    assert (metrics["conditions"][0]["calibrated"]["ams_count"] >= 10) == ignored
    assert metrics["changed"]["turned a quarter to the right"]["many"] == (not ignored)
    said = " ".join(capsys.readouterr().err.split())
    assert ("data.exif_orientation: 40 images are turned upright" in said) == (not ignored)


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
