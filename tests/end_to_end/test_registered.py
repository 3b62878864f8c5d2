"""An audit of items that come from outside the package: a source, a kind of model, a sampler, a similarity and a section."""

import json
from pathlib import Path

import numpy as np
import pytest

from side_ray.algorithm import run_until
from side_ray.config.file import parse_config
from side_ray.diffusion.denoisers import KINDS
from side_ray.diffusion.samplers import SAMPLERS
from side_ray.execution.progress import Reporter
from side_ray.images import to_float
from side_ray.report.sections import SECTIONS
from side_ray.similarity import SIMILARITIES
from side_ray.sources import SOURCES
from tests.audits import tiny_values
from tests.diffusion.denoisers.test_registry import OneImage, OneImageKind
from tests.diffusion.samplers.test_registry import OneStep
from tests.formats import pictures
from tests.report.sections.test_registry import Motto
from tests.similarity.test_registry import Histogram
from tests.sources.test_registry import RawSource

pytestmark = pytest.mark.usefixtures("undrawn")

ITEMS = (
    (SOURCES, "raw", RawSource),
    (KINDS, "one_image", OneImageKind),
    (SAMPLERS, "one_step", OneStep),
    (SIMILARITIES, "histogram", Histogram),
    (SECTIONS, "motto", Motto),
)
COPIED = 17
MEMBERS = 40


@pytest.fixture
def registered():
    for registry, name, item in ITEMS:
        registry.register(name, item)
    yield
    for registry, name, _ in ITEMS:
        registry.unregister(name)


@pytest.fixture
def directories(tmp_path: Path) -> dict[str, Path]:
    """Files of 8×8 pixels, unseen ones, and a model that always generates the picture number `COPIED`."""
    found = {name: tmp_path / name for name in ("train", "unseen", "model")}
    # Brightness tells the pictures apart, since their histograms are compared.
    for name, size, brightness in (("train", MEMBERS, 1.0), ("unseen", 40, 0.3)):
        found[name].mkdir()
        for number, image in enumerate(pictures(size, (8, 8))):
            pixels = np.clip(image * brightness * (1 - number / 200), 0, 255).astype(np.uint8)
            (found[name] / f"{number:03}.raw").write_bytes(pixels.tobytes())
    pixels = np.fromfile(found["train"] / f"{COPIED:03}.raw", np.uint8).reshape(1, 8, 8, 3)
    found["model"].mkdir()
    OneImageKind.save(OneImage(to_float(pixels)[0]), found["model"])
    return found


@pytest.mark.slow
def test_an_audit_runs_with_items_from_outside(registered, directories, ray_session, tmp_path):
    values = tiny_values(str(tmp_path / "run"))
    values["data"] = {"source": "raw", "raw_side": 8, "path": str(directories["train"]), "members": MEMBERS}
    values["data"] |= {"holdout_path": str(directories["unseen"]), "holdout": 20}
    values["dpm"] = {"path": str(directories["model"])}
    values["surrogate"] |= {"labels": "random", "synthetic": 100, "steps": 20}
    values["extract"] |= {"methods": ["random", "td"], "lambdas": [0, 1], "samples": 50}
    values["extract"] |= {"sampler": "one_step", "steps": 1, "shrink": 1.0}
    values["score"] = {"similarity": "histogram", "bins": 16, "false_match_rate": 0.05, "shards": 2}
    values["report"] = {"motto": "from outside"}
    artifacts = run_until("report", parse_config(values, "audit"), Reporter()).artifacts

    metrics = artifacts.report.read_json("metrics.json")
    assert (metrics["similarity"]["name"], metrics["similarity"]["bins"]) == ("histogram", 16)
    random, guided = metrics["conditions"]
    assert (random["method"], guided["method"]) == ("random", "td")
    # Every sample is that picture, whose histogram is the member's own.
    assert random["bands"]["high"]["ams"] == 1
    assert random["calibrated"]["ums_best_count"] == 1
    page = artifacts.run.store.read(f"{artifacts.report.key}/index.html").decode()
    assert "from outside: 50 samples" in page
    info = artifacts.prepare.info()
    assert (info["member"], info["shape"]) == (MEMBERS, [8, 8, 3])
    assert json.loads(artifacts.run.store.read(f"{artifacts.dpm.key}/image.json"))
