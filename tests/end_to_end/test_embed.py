"""Meta's SSCD on patches of photographs: every image is described once, whatever is killed, and never again in a second audit."""

import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from tests.similarity.test_sscd import SSCD_ONNX

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
SIDE, MEMBERS, UNSEEN, SAMPLES = 48, 1600, 200, 200


def patches() -> np.ndarray:
    """uint8 [N, 48, 48, 3], shuffled; neighbours overlap by three quarters."""
    found = [
        photo[row : row + SIDE, column : column + SIDE]
        for photo in load_sample_images().images
        for row, column in itertools.product(*(range(0, side - SIDE, SIDE // 4) for side in photo.shape[:2]))
    ]
    return np.random.default_rng(0).permutation(np.stack(found))


def save(images: np.ndarray, directory: Path) -> None:
    directory.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(directory / f"{number:04}.png")


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    images = patches()
    assert len(images) >= MEMBERS + 2 * UNSEEN
    save(images[:MEMBERS], tmp_path / "train")
    save(images[MEMBERS : MEMBERS + 2 * UNSEEN], tmp_path / "unseen")
    save(images[:SAMPLES], tmp_path / "samples")
    paths = [part for name in ("samples", "train", "unseen") for part in (f"--{name}", str(tmp_path / name))]
    values = [
        "similarity=sscd",
        f"checkpoint={SSCD_ONNX}",
        "preprocessing=center224",
        f"features_cache={tmp_path / 'cache'}",
    ]
    overrides = [*(f"score.{each}" for each in values), "report.pdf=false", "report.figures=false"]
    return [sys.executable, "-m", "side_ray.cli", "score", *paths, *overrides]


def written(directory: Path) -> dict[Path, float]:
    """When each file of images' features was written."""
    parts = directory.rglob("part-*.parquet")
    return {path: path.stat().st_mtime for path in parts if "split" in pq.read_schema(path).names}


@pytest.mark.skipif(not SSCD_ONNX.exists(), reason="SSCD weights are not on this machine (SIDE_RAY_SSCD_ONNX)")
def test_every_image_is_described_once(command, tmp_path):
    features = tmp_path / "run" / "features"
    run = [*command, "--run", str(tmp_path / "run")]
    with psutil.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        deadline = time.monotonic() + 600
        while not (kept := written(features)):
            assert driver.poll() is None, "the audit ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.2)
        for process in [*driver.children(recursive=True), driver]:
            process.kill()
    assert not list(tmp_path.glob("run/scores/**/part-*.parquet"))
    assert_finishes(run)
    every = written(features)
    assert {path: every[path] for path in kept} == kept
    assert sum(pq.read_metadata(path).num_rows for path in every) == MEMBERS + 2 * UNSEEN

    shared = written(tmp_path / "cache")
    assert len(shared) == len(every)
    assert_finishes([*command, "--run", str(tmp_path / "second")])
    assert written(tmp_path / "cache") == shared
    first, second = (
        json.loads(next(tmp_path.glob(f"{name}/report/*/metrics.json")).read_text()) for name in ("run", "second")
    )
    assert first["conditions"] == second["conditions"]
    assert first["verdict"] == second["verdict"]
    assert first["verdict"]["outcome"] == "found"


def assert_finishes(command: list[str]) -> None:
    found = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert found.returncode == 0, found.stderr
