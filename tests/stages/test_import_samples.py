"""Existing samples are scored without a DPM, given only their paths."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from side_ray.algorithm import run_until
from side_ray.cli.app import app
from side_ray.errors import UserError
from side_ray.execution.progress import Reporter
from side_ray.images import image_column
from side_ray.report import wording
from side_ray.report.verdict.sentences import sentence
from side_ray.runs.run import PAGE
from side_ray.runs.status import rows
from side_ray.sources.published.digits import load_digits
from side_ray.stages.import_samples import import_samples
from side_ray.stages.prepare import prepare
from side_ray.stages.report import report as report_stage
from side_ray.stages.score import score
from side_ray.studies.given import given_config
from tests.audits import PAGE_ONLY
from tests.bruteforce import check
from tests.local import stages_here, without_ray

COPIES = 40
SAMPLES = 2 * 230 + 1


def folder(path: Path, images: np.ndarray) -> str:
    path.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image[:, :, 0]).save(path / f"{number:05d}.png")
    return str(path)


def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training images, unseen images, and samples: noisy copies of the first 40 training images, then blends of other digits."""
    generator = np.random.default_rng(7)
    digits = load_digits().images[generator.permutation(1797)]
    train, unseen, others = digits[:90], digits[90:211], digits[300:]
    copies = np.clip(train[:COPIES] + generator.normal(0, 4, train[:COPIES].shape), 0, 255)
    pairs = generator.integers(len(others), size=(2, SAMPLES - COPIES))
    blends = (others[pairs[0]].astype(float) + others[pairs[1]]) / 2
    return train, unseen, np.concatenate([copies, blends]).astype(np.uint8)


@pytest.mark.long
def test_a_folder_is_scored_against_a_folder_with_a_cut_from_half_of_it(tmp_path):
    train, unseen, samples = drawn()
    paths = [folder(tmp_path / name, images) for name, images in (("s", samples), ("t", train), ("u", unseen))]
    # Several shards, of which the last is shorter.
    overrides = ["score.false_match_rate=0.01", "extract.shard_size=100", "cluster.actors=[1,1]", *PAGE_ONLY]
    config = given_config(*paths, run=str(tmp_path / "run"), overrides=overrides)
    with without_ray():
        artifacts = run_until("report", config, Reporter()).artifacts
    assert check(tmp_path / "run") == []

    metrics = artifacts.report.read_json("metrics.json")
    (condition,) = metrics["conditions"]
    assert (condition["method"], condition["n"]) == ("given", SAMPLES)
    assert (metrics["train_size"], metrics["calibration_size"], metrics["holdout_size"]) == (90, 60, 60)
    assert (metrics["cut_n"], metrics["cut_rank"]) == (231, 2)
    assert condition["calibrated"]["ams_count"] >= COPIES
    assert condition["calibrated"]["ums_count"] >= COPIES
    page = artifacts.run.store.read(PAGE).decode()
    assert page == artifacts.run.store.read(f"{artifacts.report.key}/index.html").decode()
    copies = condition["calibrated"]
    assert metrics["verdict"]["outcome"] == "found"
    assert sentence(metrics) in page
    assert f"{wording.count(copies['ams_count'])} of {wording.count(SAMPLES)} samples match." in page
    assert f"{copies['ams_count']} of {SAMPLES} samples" in page
    assert f"{copies['ums_best_count']}</span>" in page
    assert page.count('<figure class="pair">') == 12
    assert "Given samples: median" in page
    names = {path.stem for path in (tmp_path / "run" / artifacts.report.key / "figures").iterdir()}
    assert {"best-given-0", "rarefaction"} <= names

    # Its status is read without the images, which may be on another machine.
    for path in paths:
        shutil.rmtree(path)
    found = {row.stage: (row.done, row.total) for row in rows(artifacts.run.store, "run")}
    assert found == {"prepare": (1, 1), "import": (SAMPLES,) * 2, "score": (SAMPLES,) * 2, "report": (1, 1)}

    for path, images in zip(paths, (samples, train, unseen), strict=True):
        folder(Path(path), images)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "scores").rglob("*.parquet")}
    with without_ray():
        run_until("report", config, Reporter())
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "scores").rglob("*.parquet")}


@pytest.mark.long
def test_one_of_many_equally_large_samples_is_replaced_by_a_copy(tmp_path):
    generator = np.random.default_rng(3)
    train, samples = (generator.integers(0, 256, (count, 8, 8, 3), np.uint8) for count in (120, 200))
    for name, images, kind in (("t", train, "png"), ("s", samples, "bmp")):
        (tmp_path / name).mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{number:04d}.{kind}")

    def found() -> tuple[int, int]:
        paths = str(tmp_path / "s"), str(tmp_path / "t")
        config = given_config(*paths, None, str(tmp_path / "run"), ["score.engine=torch", "score.shards=1", *PAGE_ONLY])
        report = stages_here(config, [prepare, import_samples, score, report_stage]).report
        band = report.read_json("metrics.json")["conditions"][0]["bands"]["high"]
        return band["ams_count"], band["ums_count"]

    assert found() == (0, 0)
    Image.fromarray(train[7]).save(tmp_path / "s" / "0005.bmp")
    assert found() == (1, 1)


@pytest.mark.slow
def test_parquet_is_scored_without_any_unseen_image(ray_session, tmp_path):
    train, _, samples = drawn()
    for name, images in (("s", samples), ("t", train)):
        pq.write_table(pa.table({"image": image_column(images)}), tmp_path / f"{name}.parquet", row_group_size=50)
    config = given_config(
        str(tmp_path / "s.parquet"), str(tmp_path / "t.parquet"), None, str(tmp_path / "run"), ["data.grayscale=true"]
    )
    metrics = run_until("report", config, Reporter()).artifacts.report.read_json("metrics.json")
    assert check(tmp_path / "run") == []
    assert metrics["cut"] is None
    (condition,) = metrics["conditions"]
    assert condition["calibrated"] is None
    assert condition["cumulative"]["high"]["ams_count"] >= COPIES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "s"], "--samples and --train go together"),
        ([], "give CONFIG, or --samples and --train"),
        (["--samples", "missing", "--train", "t"], "given.samples: there is no file or directory"),
        (["--samples", "s", "--train", "missing"], "data.path: there is no file or directory"),
        (["--samples", "t/notes", "--train", "t"], "given.samples: there is no image in"),
        (["--samples", "s", "--train", "t", "--unseen", "one"], "data.holdout_path: one holds fewer than two images"),
        (
            ["--samples", "s", "--train", "t", "run.sead=1"],
            "override 'run.sead=1': run.sead: unknown key; did you mean",
        ),
    ],
)
def test_a_wrong_call_is_told_in_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = np.zeros((3, 8, 8, 1), np.uint8)
    for name in ("s", "t", "one"):
        folder(Path(name), image[: 1 if name == "one" else 3])
    Path("t/notes").mkdir()
    Path("t/notes/readme.txt").write_text("nothing")
    result = CliRunner().invoke(app, ["score", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("broken", "message"), [(b"none", "not an image"), (None, "has 9×9 pixels, the training images have 8×8")]
)
def test_a_sample_that_cannot_be_used_is_named(tmp_path, broken, message):
    train = drawn()[0][:60]
    samples, originals = Path(folder(tmp_path / "s", train[:5])), folder(tmp_path / "t", train)
    if broken:
        (samples / "00003.png").write_bytes(broken)
    else:
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(samples / "00003.png")
    with without_ray(), pytest.raises(UserError, match=rf"given\.samples: 00003\.png .*{message}"):
        run_until("report", given_config(str(samples), originals, None, str(tmp_path / "run")), Reporter())
