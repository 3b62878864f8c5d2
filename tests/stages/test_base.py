"""Extrapolation from a base model in an audit: sampled, scored, in the verdict and the report, and made again."""

from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

import side_ray
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.optimal import OptimalDpm
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.dataset import read_split
from side_ray.runs.plan import Condition
from side_ray.stages.extract import extract
from side_ray.stages.prepare import prepare
from side_ray.stages.report import report
from side_ray.stages.score import score
from side_ray.stages.synthesize import synthesize
from side_ray.stages.train_dpm import train_dpm
from tests.audits import tiny_config
from tests.bruteforce import check
from tests.formats import pictures, write_folder
from tests.latents import FACTOR, SIDE, latent_unet, save_ldm
from tests.local import stages_here

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("undrawn")]

BASE = Condition("base", 2.0)


def closed_form(directory: Path, images: torch.Tensor) -> str:
    directory.mkdir()
    OptimalDpm(images, new_schedule("linear", 1000)).save(directory)
    return str(directory)


def test_an_audit_with_a_base(tmp_path):
    members = config_of(tmp_path / "before", {"kind": "optimal"})
    prepared = stages_here(members, [prepare]).prepare
    own = torch.from_numpy(read_split(prepared.store, prepared.key, "member").images).permute(0, 3, 1, 2) / 127.5 - 1
    old = torch.tensor(load_digits().images[-300:]).float()[:, None] / 8 - 1
    paths = closed_form(tmp_path / "tuned", torch.cat([old, own])), closed_form(tmp_path / "base", old)
    config = config_of(tmp_path / "run", {"path": paths[0], "base": paths[1], "check": False}, base_lambdas=[2])
    artifacts = stages_here(config, [prepare, train_dpm, synthesize, extract, score, report])
    metrics = artifacts.report.read_json("metrics.json")
    random, base = metrics["conditions"]
    assert [random["method"], base["method"], base["lambda"]] == ["random", "base", 2.0]
    assert base["calibrated"]["ams"] > random["calibrated"]["ams"] + 0.1
    assert base["calibrated"]["holdout_ams"] <= random["calibrated"]["ams"]
    assert check(tmp_path / "run") == []
    assert metrics["provenance"]["artifacts"]["base"] == artifacts.base.key
    assert any(key.startswith(artifacts.base.key) for key in metrics["provenance"]["sha256"])
    assert "Base extrapolation" in (tmp_path / "run" / "report.html").read_text()
    run = side_ray.open_run(str(tmp_path / "run"))
    made = run.remake("base", 2, 7)
    assert made.identical
    assert made.target is None
    assert any(key.startswith(artifacts.base.key) for key in made.weights)


def config_of(uri, dpm, **extract):
    settings = {"methods": ["random"], "samples": 100, "steps": 10, **extract}
    changes = {f"extract__{key}": value for key, value in settings.items()}
    return tiny_config(uri, dpm=dpm, score__shards=1, surrogate__synthetic=100, **changes)


def test_latents_are_held_in_the_range_of_the_models_own(tmp_path):
    save_ldm(tmp_path / "tuned")
    with torch.no_grad():
        unet = latent_unet()
        for weights in unet.parameters():
            weights.mul_(0.5)
    save_ldm(tmp_path / "base")
    unet.save_pretrained(tmp_path / "base" / "unet")
    pixels = SIDE * FACTOR
    write_folder(tmp_path / "images", pictures(40, (pixels, pixels)), classes=1)
    data = {"source": "folder", "path": str(tmp_path / "images"), "members": 20, "holdout": 10}
    dpm = {"path": str(tmp_path / "tuned"), "base": str(tmp_path / "base"), "check": False}
    sizes = {"surrogate__synthetic": 50, "extract__samples": 50, "extract__steps": 4, "surrogate__classes": 2}
    sizes |= {
        "extract__methods": ["random"],
        "extract__batch_size": 25,
        "extract__base_lambdas": [2],
        "score__shards": 1,
    }
    config = tiny_config(tmp_path / "run", data=data, dpm=dpm, **sizes)
    artifacts = stages_here(config, [prepare, train_dpm, synthesize, extract, score, report])
    assert artifacts.latents is not None
    assert artifacts.latents.done
    assert artifacts.run.latest()["latents"] == artifacts.latents.key
    plain, guided = (
        artifacts.samples(each).read(0, ["image"]).column("image").to_pylist()
        for each in (Condition("random", 0.0), BASE)
    )
    assert plain != guided
    assert side_ray.open_run(str(tmp_path / "run")).remake("base", 2, 3).identical
    other = Artifacts.open(tiny_config(tmp_path / "run", data=data, dpm=dpm, **sizes | {"surrogate__synthetic": 100}))
    assert other.samples(BASE).fingerprint != artifacts.samples(BASE).fingerprint
